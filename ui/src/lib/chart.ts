/** What every uPlot here shares: fonts, axes from our own ticks, crosshair; values are drawn on transformed axes. */
import uPlot from 'uplot'
import { EDGE, fromX, GUTTER, stepText, ticks } from './axis'
import { num } from './format'
import { css } from './theme.svelte'

export const FONT = '11px system-ui, "DejaVu Sans", sans-serif'

export const toY = (v: number | null | undefined, log: boolean): number | null =>
  typeof v !== 'number' || !Number.isFinite(v) ? null : log ? (v > 0 ? Math.log10(v) : null) : v

function yTicks(low: number, high: number, log: boolean): number[] {
  if (!log) return ticks(low, high, false, 5)
  const a = 10 ** low
  const b = 10 ** high
  if (high - low < 0.8) return ticks(a, b, false, 4).filter((v) => v > 0).map(Math.log10)
  const marks = high - low > 3 ? [1] : high - low > 1.6 ? [1, 3] : [1, 2, 5]
  const every = high - low > 6 ? 2 : 1
  const out: number[] = []
  for (let p = Math.floor(low); p <= high; p += every) for (const m of marks) out.push(p + Math.log10(m))
  return out.filter((v) => v >= low && v <= high)
}

/** The y range with a little air; never empty. */
export function air(low: number | null, high: number | null): [number, number] {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1]
  const pad = (high - low) * 0.07 || Math.abs(high) * 0.1 || 0.5
  return [low - pad, high + pad]
}

export function axes(xlog: boolean, ylog: boolean, showX: boolean, stepX = true): uPlot.Axis[] {
  const common = { font: FONT, stroke: () => css('--soft'), grid: { stroke: () => css('--grid'), width: 1 }, ticks: { show: false } }
  return [
    {
      ...common,
      size: showX ? 26 : 0,
      gap: 3,
      splits: (_u, _i, low, high) => ticks(fromX(low, xlog), fromX(high, xlog), xlog, 8, stepX ? 1 : 0).map((s) => (xlog ? Math.log10(1 + s) : s)),
      values: (_u, at) => at.map((x) => (showX ? (stepX ? stepText(fromX(x, xlog)) : num(x, 3)) : '')),
    },
    {
      ...common,
      size: GUTTER,
      gap: 4,
      splits: (_u, _i, low, high) => yTicks(low, high, ylog),
      values: (_u, at) => at.map((y) => num(ylog ? 10 ** y : +y.toPrecision(10), 3)),
    },
  ]
}

export const PADDING: uPlot.Padding = [7, EDGE, 4, 0]
