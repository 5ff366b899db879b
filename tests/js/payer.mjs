// Unmodified mppx, for as long as stdin is open. One JSON line is one try, or the wish to leave one; what it saw goes
// to stdout, one JSON line each.
//
//   {"id", "url", "method", "body", "headers", "mode", "key", "limit", "leave"}   leave: null or "headers"
//   {"id", "abort": true}
//
//   {"id", "event": "asked"}      a request with a credential is on its way
//   {"id", "event": "done", "exchanges": [...], "error": null}
//
// Moments are seconds of the machine's monotonic clock. What mppx sends and gets is seen, not changed.
import { createInterface } from 'node:readline'
import { Mppx, tempo } from 'mppx/client'
import { createClient, http } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { tempoLocalnet } from 'viem/tempo/chains'

const [rpcUrl, chainId] = process.argv.slice(2)
const chain = { ...tempoLocalnet, id: Number(chainId), rpcUrls: { default: { http: [rpcUrl] } } }

const now = () => Number(process.hrtime.bigint()) / 1e9
const say = (document) => process.stdout.write(`${JSON.stringify(document)}\n`)
const running = new Map()

function credentialOf(headers) {
  for (const name of ['payment-authorization', 'authorization']) {
    const value = headers.get(name)
    if (value?.toLowerCase().startsWith('payment ')) return value
  }
  return null
}

async function attempt(question) {
  const left = new AbortController()
  running.set(question.id, left)
  const timer = setTimeout(() => left.abort(), question.limit * 1000)
  const exchanges = []
  const bodies = []

  const observed = async (input, init) => {
    const credential = credentialOf(new Headers(init?.headers ?? input.headers))
    const exchange = {
      sent_at: now(), got_at: 0, credential, status: 0, whole: false, hung_up: false, headers: {},
    }
    exchanges.push(exchange)
    try {
      const asked = globalThis.fetch(input, init)
      if (credential !== null) say({ id: question.id, event: 'asked' })
      const response = await asked
      exchange.got_at = now()
      exchange.status = response.status
      exchange.headers = Object.fromEntries(response.headers)
      if (credential !== null && question.leave === 'headers') {
        exchange.hung_up = true
        left.abort()
        return response
      }
      bodies.push(
        response.clone().arrayBuffer().then(
          () => { exchange.whole = true },
          () => { exchange.hung_up = left.signal.aborted },
        ),
      )
      return response
    } catch (error) {
      exchange.got_at = now()
      exchange.hung_up = left.signal.aborted
      throw error
    }
  }

  let error = null
  try {
    const account = privateKeyToAccount(question.key)
    const client = createClient({ account, chain, transport: http(rpcUrl) })
    const payer = Mppx.create({
      fetch: observed,
      polyfill: false,
      methods: [tempo.charge({ account, getClient: () => client, mode: question.mode })],
    })
    const response = await payer.fetch(question.url, {
      method: question.method,
      headers: question.headers,
      signal: left.signal,
      ...(question.body === null ? {} : { body: question.body }),
    })
    await response.arrayBuffer()
  } catch (raised) {
    error = raised?.name ?? 'Error' // its text may quote a credential
  }
  await Promise.all(bodies)
  clearTimeout(timer)
  running.delete(question.id)
  say({ id: question.id, event: 'done', exchanges, error })
}

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line)
  if (question.abort) running.get(question.id)?.abort()
  else attempt(question)
}
