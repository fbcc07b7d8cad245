/** What the strip needs of a run, wherever its numbers come from: the server, or a notebook. */
import type { Branch, Ev, Law, Panel, Reading, Stages, Traces } from './types'

export interface View {
  readonly id: string
  readonly detail: { series: { name: string; scalar: boolean }[] } | null
  readonly panels: Panel[]
  readonly traces: Traces
  readonly branchTraces: Record<string, Traces>
  readonly shown: Branch[]
  readonly events: Ev[]
  readonly stages: Stages | null
  readonly laws: Law[]
  readonly stored: number[]
  readonly log: boolean
  readonly first: number
  readonly last: number
  readonly low: number
  readonly high: number
  readonly chosen: number | null
  readonly step: number
  readonly snapped: number | null
  /** The panels, by number, whose values are drawn on the other kind of axis than they ask for. */
  readonly flips: Set<number>
  go(step: number | null): void
  setZoom(zoom: [number, number] | null): void
  flip(panel: number): void
  /** How a number was measured; null where nothing is recorded. Throws with a sentence where it cannot be asked. */
  reading(run: string, name: string, step: number): Promise<Reading | null>
}

export function flipped(flips: Set<number>, panel: number): Set<number> {
  const next = new Set(flips)
  if (!next.delete(panel)) next.add(panel)
  return next
}
