/** Which of some models nothing beats: on the trait, wanted low (or high), and on the loss. */
import type { FrontArm, Num } from './types'

export interface Candidate { label: string; step: number; trait: number; traitErr: number; loss: number; lossErr: number; branch: boolean }

const known = (v: Num): v is number => typeof v === 'number' && Number.isFinite(v)

/** The squared standard error of the mean of a − b, pair by pair. */
function squared(a: Num[], b: Num[]): number {
  const d = a.flatMap((v, i) => (known(v) && known(b[i]) ? [v - (b[i] as number)] : []))
  if (d.length < 2) return 0
  const mean = d.reduce((s, v) => s + v, 0) / d.length
  return d.reduce((s, v) => s + (v - mean) ** 2, 0) / (d.length - 1) / d.length
}

/** The models of one answer, with errors of their differences from `base` (the first dose of it); without finite numbers left out. */
export function candidates(a: FrontArm, base: FrontArm, at: number, step: number, branch: boolean, name: (i: number) => string): Candidate[] {
  return a.trait.flatMap((t, i) => {
    const l = a.loss[i]
    if (!known(t) || !known(l)) return []
    const traitErr = Math.sqrt(squared(a.on[i], base.on[at]) + squared(a.off[i], base.off[at]))
    return [{ label: name(i), step, trait: t, traitErr, loss: l, lossErr: Math.sqrt(squared(a.each[i], base.each[at])), branch }]
  })
}

export function onFront(all: Candidate[], more: boolean): boolean[] {
  const way = more ? -1 : 1
  const beats = (a: Candidate, b: Candidate) => way * a.trait <= way * b.trait && a.loss <= b.loss && (a.trait !== b.trait || a.loss !== b.loss)
  return all.map((b) => !all.some((a) => beats(a, b)))
}
