/** Requests to the server. Every failure becomes an ApiError whose message is one sentence a person can read. */
export class ApiError extends Error {
  constructor(message: string, readonly status: number) {
    super(message)
  }
}

export type Params = Record<string, string | number | boolean | string[] | null | undefined>

export function address(path: string, params: Params = {}): string {
  const q = new URLSearchParams()
  for (const [k, v] of Object.entries(params)) {
    if (Array.isArray(v)) for (const one of v) q.append(k, one)
    else if (v !== null && v !== undefined) q.append(k, String(v))
  }
  const tail = q.toString()
  return `/api${path}${tail ? '?' + tail : ''}`
}

async function send(url: string, init: RequestInit): Promise<Response> {
  let answer: Response
  try {
    answer = await fetch(url, { credentials: 'same-origin', ...init })
  } catch (e) {
    if ((e as Error).name === 'AbortError') throw e
    throw new ApiError('The server does not answer: is "strobe serve" still running? The training itself goes on without it.', 0)
  }
  if (answer.ok) return answer
  let text = ''
  try {
    text = String((await answer.json()).error ?? '')
  } catch {
    /* not JSON: the status says enough */
  }
  if (!text && (answer.status === 401 || answer.status === 403))
    text = 'This browser has no session: open the address with the token that "strobe serve" printed.'
  throw new ApiError(text || `The server answered ${answer.status} to ${url.split('?')[0]}.`, answer.status)
}

export async function get<T>(path: string, params?: Params, signal?: AbortSignal): Promise<T> {
  return (await send(address(path, params), { signal })).json()
}

/** The header makes the browser ask first when another site tries this, and no other site is ever allowed. */
function poster(body: unknown, signal?: AbortSignal): RequestInit {
  return { method: 'POST', body: JSON.stringify(body), signal, headers: { 'Content-Type': 'application/json', 'X-Strobe': '1' } }
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  return (await send(address(path), poster(body, signal))).json()
}

export async function download(path: string, body: unknown, name: string): Promise<number> {
  const blob = await (await send(address(path), poster(body))).blob()
  const a = document.createElement('a')
  a.href = URL.createObjectURL(blob)
  a.download = name
  a.click()
  setTimeout(() => URL.revokeObjectURL(a.href), 10_000)
  return blob.size
}

export const aborted = (e: unknown) => (e as Error)?.name === 'AbortError'
