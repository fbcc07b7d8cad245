/** The boundaries of stages on the strip: every method's, and which of them a click means. */
import { pm } from '../lib/format'
import type { Boundary, Stages } from '../lib/types'

export const NEAR = 6 // pixels

/** All methods' boundaries; a notebook saved by an older version has the stages' own only. */
export function boundariesOf(s: Stages | null): Boundary[] {
  if (!s) return []
  return s.boundaries ?? s.value.map((step, i) => ({ step, err: s.err[i] ?? 0, method: 'bends of the traces', sure: null, of: 'stages', facts: [], agrees: [] }))
}

/** The methods, in the order in which the rows of the lane have their colours: that which cuts the strip is first. */
export function methodsOf(all: Boundary[]): string[] {
  const main = all.filter((b) => b.of === 'stages')
  return [...new Set([...main, ...all].map((b) => b.method))]
}

/** The boundaries under the pointer, nearest first. */
export function under(all: Boundary[], x: number, px: (step: number) => number): Boundary[] {
  const gap = (b: Boundary) => Math.abs(px(b.step) - x)
  return all.filter((b) => gap(b) < NEAR).sort((a, b) => gap(a) - gap(b))
}

export const place = (b: { step: number; err: number }) => pm(b.step, b.err)

export function sureness(b: Boundary): string {
  return b.sure === null ? 'how sure it is was not recorded' : `${Math.round(100 * b.sure)} % of resampled data have it`
}

/** One line of it, for a tip. */
export const inShort = (b: Boundary) => `step ${place(b)}, ${b.method}, ${sureness(b)}`
