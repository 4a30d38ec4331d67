/** Resolves with the promise, or with null once the time has run out; what comes later is left alone. */
export function within<T>(millis: number, promise: Promise<T>): Promise<T | null> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(null), millis);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
