/** Server-sent events. The browser reconnects by itself (with Last-Event-ID); we only say so. */
import { address } from './api'
import type { Ev, Row, Traces } from './types'

export interface Handlers {
  points?: (run: string, series: Traces) => void
  event?: (run: string, event: Ev) => void
  row?: (row: Row) => void
  again?: () => void // the connection was lost and is back
}

class Link {
  state = $state<'idle' | 'open' | 'lost'>('idle')
}
export const link = new Link()

export function listen(runs: string[], on: Handlers): () => void {
  const source = new EventSource(address('/stream', { run: runs }))
  let lost = false
  source.onopen = () => {
    link.state = 'open'
    if (lost) on.again?.()
    lost = false
  }
  source.onerror = () => {
    lost = true
    link.state = 'lost'
  }
  const hear = (type: string, fn: (data: never) => void) =>
    source.addEventListener(type, (e) => {
      try {
        fn(JSON.parse((e as MessageEvent).data) as never)
      } catch {
        /* half a message: the next delta or reconnect brings it */
      }
    })
  hear('points', (d: { run: string; series: Traces }) => on.points?.(d.run, d.series))
  hear('event', (d: { run: string; event: Ev }) => on.event?.(d.run, d.event))
  hear('row', (d: Row) => on.row?.(d))
  return () => {
    source.close()
    link.state = 'idle'
  }
}
