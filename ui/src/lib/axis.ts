/** The step axis: linear, or log10(1 + step) so that step 0 has a place on it. */
export const GUTTER = 58 // room for the values of the y axis: the same in every panel, so that the panels align
export const EDGE = 10

export const toX = (step: number, log: boolean) => (log ? Math.log10(1 + Math.max(step, 0)) : step)
export const fromX = (x: number, log: boolean) => (log ? 10 ** x - 1 : x)

/** Round steps to put ticks at. */
export function ticks(low: number, high: number, log: boolean, most = 8, least = 0): number[] {
  const out: number[] = []
  if (log && high > 10 * (low + 1)) {
    if (low <= 0) out.push(0)
    const decades = Math.log10(high / Math.max(low, 1))
    const marks = decades > most / 2 ? [1] : decades > most / 3 ? [1, 3] : [1, 2, 5]
    for (let p = 0; p < 12; p++) for (const m of marks) if (m * 10 ** p >= low && m * 10 ** p <= high) out.push(m * 10 ** p)
    return out
  }
  const raw = Math.max((high - low) / most, 1e-9)
  const p = 10 ** Math.floor(Math.log10(raw))
  const unit = Math.max([1, 2, 5, 10].find((m) => m * p >= raw)! * p, least)
  for (let k = Math.ceil(low / unit - 1e-6); k * unit <= high + unit * 1e-6; k++) out.push(k * unit || 0) // counted, not summed: zero is 0
  return out
}

export function stepText(v: number): string {
  if (v >= 1e6) return `${+(v / 1e6).toPrecision(3)}M`
  if (v >= 1e4) return `${+(v / 1e3).toPrecision(3)}k`
  return String(Math.round(v))
}

/** Index of the last step <= s in a sorted list (-1 if none). */
export function before(steps: number[], s: number): number {
  let a = 0
  let b = steps.length
  while (a < b) {
    const m = (a + b) >> 1
    if (steps[m] <= s) a = m + 1
    else b = m
  }
  return a - 1
}

export function nearest(steps: number[], s: number): number | null {
  if (!steps.length) return null
  const i = before(steps, s)
  if (i < 0) return steps[0]
  if (i === steps.length - 1) return steps[i]
  return s - steps[i] <= steps[i + 1] - s ? steps[i] : steps[i + 1]
}
