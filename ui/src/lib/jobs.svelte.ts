/** Forks and traces on their way: a worker process trains or measures; we ask how far it is. */
import { get, post } from './api'
import { notice } from './notice.svelte'
import type { Job } from './types'

export interface Fork { job: string; parent: string; step: number; until: number | null; edits: string[]; now: Job }

class Jobs {
  list = $state.raw<Fork[]>([])

  async fork(parent: string, step: number, edits: unknown[], until: number | null, name: string, done?: () => void, labels: string[] = edits.map(describe)): Promise<boolean> {
    const body: Record<string, unknown> = { step, edits }
    if (until !== null) body.until = until
    if (name) body.name = name
    try {
      const { job } = await post<{ job: string }>(`/runs/${parent}/fork`, body)
      this.list = [{ job, parent, step, until, edits: labels, now: { job, state: 'running', step: null, run: null, error: '' } }, ...this.list]
      notice.say(`Fork at step ${step} started`)
      this.#follow(job, done)
      return true
    } catch (e) {
      notice.fail(e)
      return false
    }
  }

  /** A concept put on the strip of a run; `told` hears how far it is. */
  async trace(run: string, body: { step: number; site: string; positive: string[]; negative: string[]; name: string }, told: (now: Job) => void): Promise<void> {
    let now: Job = { job: '', state: 'running', step: null, run: null, error: '' }
    told(now)
    try {
      const { job } = await post<{ job: string }>(`/runs/${run}/trace`, body)
      while (now.state === 'running') {
        await new Promise((r) => setTimeout(r, 500))
        now = await get<Job>(`/jobs/${job}`)
        told(now)
      }
    } catch (e) {
      told({ ...now, state: 'failed', error: e instanceof Error ? e.message : String(e) })
    }
  }

  #follow(job: string, done?: () => void): void {
    let known = false
    const ask = async () => {
      let now: Job
      try {
        now = await get<Job>(`/jobs/${job}`)
      } catch (e) {
        now = { job, state: 'failed', step: null, run: null, error: e instanceof Error ? e.message : String(e) }
      }
      this.list = this.list.map((f) => (f.job === job ? { ...f, now } : f))
      if (now.run && !known) {
        known = true
        done?.() // the branch exists: its traces can be drawn while it trains
      }
      if (now.state === 'running') setTimeout(() => void ask(), 500)
      else {
        notice.say(now.state === 'done' ? 'The branch has finished' : `The fork failed: ${now.error}`)
        done?.()
      }
    }
    void ask()
  }
}

function describe(edit: unknown): string {
  if (typeof edit === 'string') return edit
  const e = edit as { act?: string; weights?: Record<string, number> }
  return e.act === 'examples' ? `${Object.keys(e.weights ?? {}).length} examples re-weighted` : JSON.stringify(edit)
}

export const jobs = new Jobs()
