/** Linear algebra for a few unknowns: what the cost model of the core and the fits of a what-if have in common. */

/**
 * Solves the normal equations of a few unknowns, `rows` being a positive definite matrix with the right side as its last
 * column. An unknown that comes out below 0 is taken as 0 and the others are solved again: not always the best
 * solution above 0, but a usable one. One of which nothing is known, its row being 0, is 0.
 */
export function solveNotNegative(rows: readonly Float64Array[]): number[] {
  const size = rows.length;
  const kept = rows.flatMap((row, k) => ((row[k] as number) > 1e-300 ? [k] : []));
  for (;;) {
    const solution = solve(kept.map((i) => [...kept, size].map((j) => rows[i]?.[j] as number)));
    const least = Math.min(0, ...solution);
    if (least === 0) return rows.map((_, k) => solution[kept.indexOf(k)] ?? 0);
    kept.splice(solution.indexOf(least), 1);
  }
}

/** Gauss's elimination; a positive definite matrix needs no pivots. The right side is the last column. */
function solve(rows: number[][]): number[] {
  const size = rows.length;
  for (let k = 0; k < size; k++) {
    const pivot = rows[k] as number[];
    for (let i = k + 1; i < size; i++) {
      const row = rows[i] as number[];
      const factor = (row[k] as number) / (pivot[k] as number);
      for (let j = k; j <= size; j++) (row[j] as number) -= factor * (pivot[j] as number);
    }
  }
  const solution = new Array<number>(size).fill(0);
  for (let k = size - 1; k >= 0; k--) {
    const row = rows[k] as number[];
    let rest = row[size] as number;
    for (let j = k + 1; j < size; j++) rest -= (row[j] as number) * (solution[j] as number);
    solution[k] = rest / (row[k] as number);
  }
  return solution;
}

export function dot(coefficients: readonly number[], features: readonly number[]): number {
  let sum = 0;
  for (let k = 0; k < coefficients.length; k++) sum += (coefficients[k] as number) * (features[k] as number);
  return sum;
}
