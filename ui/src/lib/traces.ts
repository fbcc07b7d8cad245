/** Traces of one run: what the server sent thinned, plus the points that came live since. */
import type { Panel, Trace, Traces } from './types'

/** The new traces; points at or before the last known step are what a reconnect repeats. */
export function append(old: Traces, fresh: Traces): Traces {
  const out = { ...old }
  for (const [name, more] of Object.entries(fresh)) {
    const had = out[name]
    if (!had) {
      out[name] = { ...more }
      continue
    }
    const last = had.steps.at(-1) ?? -Infinity
    let i = 0
    while (i < more.steps.length && more.steps[i] <= last) i++
    if (i === more.steps.length) continue
    const errs = had.errs || more.errs
      ? [...(had.errs ?? had.steps.map(() => 0)), ...(more.errs ?? more.steps.map(() => 0)).slice(i)]
      : null
    out[name] = { ...had, steps: [...had.steps, ...more.steps.slice(i)], values: [...had.values, ...more.values.slice(i)], errs }
  }
  return out
}

/** Legend rows a panel makes room for; more of them scroll. */
export const ROWS = 8
export const ROW = 19

export interface Drawn { key: string; label: string; trace: Trace; colour: number; run: string | null; runName: string }

/** What one panel draws: each named series, and every element of an array reading. */
export function ofPanel(panel: Panel, traces: Traces): Drawn[] {
  const out: Drawn[] = []
  for (const name of panel.series) {
    const label = panel.labels?.[name] ?? name
    if (traces[name]) {
      out.push({ key: name, label, trace: traces[name], colour: out.length, run: null, runName: '' })
      continue
    }
    const parts = Object.keys(traces).filter((k) => k.startsWith(name + '['))
    parts.sort((a, b) => parseInt(a.slice(name.length + 1)) - parseInt(b.slice(name.length + 1)))
    for (const key of parts) {
      const own = traces[key].label ?? key.slice(name.length)
      out.push({ key, label: panel.series.length > 1 ? `${label} ${own}` : own, trace: traces[key], colour: out.length, run: null, runName: '' })
    }
  }
  return out
}

/** The reading that a key such as `heads[3]` belongs to. */
export const baseName = (key: string) => key.replace(/\[\d+\]$/, '')
