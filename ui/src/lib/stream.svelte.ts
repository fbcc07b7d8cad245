/** Server-sent events over one connection for the whole page: a browser allows only six to a server,
 *  all tabs together, so a page that is hidden for a while gives its own back. */
import { address } from './api'
import { notice } from './notice.svelte'
import type { Ev, Row, Traces } from './types'

export interface Handlers {
  points?: (run: string, series: Traces) => void
  event?: (run: string, event: Ev) => void
  row?: (row: Row) => void
  again?: (run?: string) => void // the connection was lost and is back: something may have been missed
}

class Link {
  state = $state<'idle' | 'open' | 'lost'>('idle')
}
export const link = new Link()

const PATIENCE = 60_000
const MOST = 16 // runs in one stream, the server's limit; the others are drawn without news
const listeners = new Set<{ runs: string[]; on: Handlers }>()
let source: EventSource | null = null
let wanted = ''
let timer: ReturnType<typeof setTimeout> | undefined
let away: ReturnType<typeof setTimeout> | undefined

export function listen(runs: string[], on: Handlers): () => void {
  const one = { runs, on }
  listeners.add(one)
  renew()
  return () => {
    listeners.delete(one)
    renew()
  }
}

function renew(): void {
  clearTimeout(timer)
  timer = setTimeout(() => {
    if (!listeners.size) return shut()
    const runs = [...new Set([...listeners].flatMap((l) => l.runs))].slice(0, MOST).sort()
    if (!source || runs.join() !== wanted) open(runs)
  }, 30)
}

function shut(): void {
  source?.close()
  source = null
  link.state = 'idle'
}

/** The old connection is closed only when the new one is open, so that nothing falls between them;
 *  what comes twice is recognised by its step. */
function open(runs: string[]): void {
  const old = source
  const mine = (source = new EventSource(address('/stream', { run: runs })))
  wanted = runs.join()
  let lost = false
  mine.onopen = () => {
    old?.close()
    link.state = 'open'
    if (lost) for (const l of [...listeners]) l.on.again?.()
    lost = false
  }
  mine.onerror = () => {
    old?.close()
    if (source !== mine) return
    lost = true
    link.state = 'lost'
    if (mine.readyState === EventSource.CLOSED) setTimeout(() => source === mine && open(runs), 3000) // refused, not broken: the browser would not try again
  }
  const hear = (type: string, tell: (l: { runs: string[]; on: Handlers }, data: never) => unknown) =>
    mine.addEventListener(type, (e) => {
      let data: never
      try {
        data = JSON.parse((e as MessageEvent).data) as never
      } catch {
        return // half a message: the next delta or reconnect brings it
      }
      for (const l of [...listeners]) tell(l, data)
    })
  hear('points', (l, d: { run: string; series: Traces }) => l.runs.includes(d.run) && l.on.points?.(d.run, d.series))
  hear('event', (l, d: { run: string; event: Ev }) => l.runs.includes(d.run) && l.on.event?.(d.run, d.event))
  hear('again', (l, d: { run: string }) => l.runs.includes(d.run) && l.on.again?.(d.run)) // more is new than fits in a delta
  hear('failed', (_l, d: { error: string }) => notice.fail(d.error))
  hear('row', (l, d: Row) => l.on.row?.(d))
}

document.addEventListener('visibilitychange', () => {
  clearTimeout(away)
  if (document.hidden) away = setTimeout(shut, PATIENCE)
  else if (!source && listeners.size) {
    renew()
    for (const l of [...listeners]) l.on.again?.()
  }
})
