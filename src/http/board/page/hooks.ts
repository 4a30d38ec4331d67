import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Source } from './feed.js';

/** The value of a source now; the component is drawn again when it changes. */
export function useSource<T>(source: Source<T>): T {
  const [, redraw] = useState(0);
  useEffect(() => source.subscribe(() => redraw((times) => times + 1)), [source]);
  return source.get();
}

/** The size of an element in CSS pixels, as it changes. */
export function useSize<E extends Element>() {
  const element = useRef<E>(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  useLayoutEffect(() => {
    const observed = element.current;
    if (observed === null) return undefined;
    const observer = new ResizeObserver(([entry]) => {
      if (entry === undefined) return;
      const { width, height } = entry.contentRect;
      setSize((was) => (was.width === width && was.height === height ? was : { width, height }));
    });
    observer.observe(observed);
    return () => observer.disconnect();
  }, []);
  return { element, ...size };
}
