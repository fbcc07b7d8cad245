/** Which events get a mark on the strip, how it looks, and what it says. */
import { num, plain, pm, short } from '../lib/format'
import type { Ev } from '../lib/types'

export interface Mark { shape: 'up' | 'down' | 'diamond' | 'cross' | 'square' | 'plus' | 'dot'; colour: string; label: string }

const MARKS: Record<string, Mark> = {
  prediction: { shape: 'up', colour: '--t0', label: 'sealed prediction' },
  verdict: { shape: 'down', colour: '--t2', label: 'verdict' },
  applied: { shape: 'diamond', colour: '--t1', label: 'control set' },
  control: { shape: 'diamond', colour: '--t1', label: 'control set' },
  edit: { shape: 'diamond', colour: '--t1', label: 'edit' },
  error: { shape: 'cross', colour: '--fails', label: 'error' },
  nonfinite: { shape: 'cross', colour: '--fails', label: 'not finite' },
  command: { shape: 'square', colour: '--t3', label: 'command' },
  replay: { shape: 'plus', colour: '--ink', label: 'replay' },
  rewound: { shape: 'dot', colour: '--t4', label: 'rewound' },
  finished: { shape: 'dot', colour: '--soft', label: 'finished' },
  interrupted: { shape: 'cross', colour: '--t4', label: 'interrupted' },
}

export const markOf = (e: Ev): Mark | null => MARKS[e.type] ?? null

/** One line about an event; the words come from the run, so they are shown as text and cut short. */
export function saying(e: Ev): string {
  // where a line stands in the journal is no news
  const { type, step: _s, time: _t, kind: _k, file: _f, at: _a, args, ...rest } = e
  const body: Record<string, unknown> = { ...(args as object), ...rest }
  const p = (body.prediction ?? body.predicted ?? body) as Record<string, unknown>
  if (type === 'prediction') return short(`${String(p.of ?? body.of ?? '')}: ${typeof p.value === 'number' ? num(p.value) : plain(p.value ?? p.said ?? '')}`, 160)
  if (type === 'verdict') {
    const m = (body.measured ?? {}) as Record<string, unknown>
    return short(`${String(body.word ?? '')}: ${String(p.of ?? body.of ?? '')} ${typeof m.value === 'number' ? pm(m.value, m.err) : ''}${body.why ? ', ' + String(body.why) : ''}`, 160)
  }
  if (type === 'command') return short(`${String(body.act ?? '')} ${body.name ? `${String(body.name)} = ${plain(body.value)}` : ''} ${String(body.outcome ?? '')}${body.reason ? ': ' + String(body.reason) : ''}${body.author ? ', asked by ' + String(body.author) : ''}`, 160)
  if (type === 'applied') return short(`${String(body.name ?? body.act ?? '')} ${plain(body.before)} → ${plain(body.value)}${body.author ? ', asked by ' + String(body.author) : ''}`, 160)
  return short(Object.entries(body).map(([k, v]) => `${k} ${plain(v)}`).join('; '), 160)
}

export function paint(ctx: CanvasRenderingContext2D, shape: Mark['shape'], x: number, y: number, r = 4): void {
  ctx.beginPath()
  if (shape === 'up') ctx.moveTo(x, y - r), ctx.lineTo(x + r, y + r), ctx.lineTo(x - r, y + r), ctx.fill()
  else if (shape === 'down') ctx.moveTo(x, y + r), ctx.lineTo(x + r, y - r), ctx.lineTo(x - r, y - r), ctx.fill()
  else if (shape === 'diamond') ctx.moveTo(x, y - r), ctx.lineTo(x + r, y), ctx.lineTo(x, y + r), ctx.lineTo(x - r, y), ctx.fill()
  else if (shape === 'square') ctx.fillRect(x - r + 1, y - r + 1, 2 * r - 2, 2 * r - 2)
  else if (shape === 'dot') ctx.arc(x, y, r - 1, 0, 7), ctx.fill()
  else {
    const d = shape === 'cross' ? r - 1 : 0
    ctx.moveTo(x - (d || r), y - d), ctx.lineTo(x + (d || r), y + d)
    ctx.moveTo(x - d, y + (d || r)), ctx.lineTo(x + d, y - (d || r))
    ctx.lineWidth = 2
    ctx.stroke()
  }
}
