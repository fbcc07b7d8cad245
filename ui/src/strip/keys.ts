/** The keyboard on the strip: between stored states, stage boundaries, and events. */
import type { View } from '../lib/view'
import { boundariesOf } from './boundaries'
import { markOf } from './marks'

function next(steps: number[], from: number, back: boolean): number | null {
  const sorted = [...steps].sort((a, b) => a - b)
  const found = back ? sorted.reverse().find((s) => s < from) : sorted.find((s) => s > from)
  return found ?? null
}

/** Moves the playhead when the key means something; true if it did. */
export function jump(run: View, e: KeyboardEvent): boolean {
  if (e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented) return false
  const back = e.key === 'ArrowLeft' || e.key === 'E'
  let to: number | null
  if (e.key === 'ArrowLeft' || e.key === 'ArrowRight') to = next(e.shiftKey ? boundariesOf(run.stages).map((b) => Math.round(b.step)) : run.stored, run.step, back)
  else if (e.key === 'e' || e.key === 'E') to = next(run.events.filter(markOf).map((v) => v.step), run.step, back)
  else if (e.key === 'Home') to = run.first
  else if (e.key === 'End') to = run.last
  else return false
  e.preventDefault()
  if (to !== null) run.go(to)
  return true
}

/** Keys belong to the field they are typed into. */
export function typing(e: KeyboardEvent): boolean {
  const t = e.target as HTMLElement | null
  return !!t?.closest('input, select, textarea, [role=tablist], [role=slider], [data-keys]')
}
