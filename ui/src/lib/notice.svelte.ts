/** What the page tells the person: one banner for what failed, one polite line for what happened. */
class Notice {
  error = $state('')
  said = $state('')

  fail(e: unknown): void {
    if ((e as Error)?.name === 'AbortError') return
    this.error = e instanceof Error ? e.message : String(e)
  }

  say(text: string): void {
    this.said = text
  }
}

export const notice = new Notice()
