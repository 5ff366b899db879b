// Pays with unmodified mppx. A JSON question on stdin, a JSON array of answers on stdout.
import { Mppx, tempo } from 'mppx/client'
import { createClient, http } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { tempoLocalnet } from 'viem/tempo/chains'

const question = JSON.parse(await new Response(process.stdin).text())
const account = privateKeyToAccount(question.key)
const chain = { ...tempoLocalnet, id: question.chainId, rpcUrls: { default: { http: [question.rpcUrl] } } }
const client = createClient({ account, chain, transport: http(question.rpcUrl) })

let credential = null
// What mppx sends is seen, not changed.
const observed = (input, init) => {
  const headers = new Headers(init?.headers ?? input.headers)
  for (const name of ['payment-authorization', 'authorization']) {
    const value = headers.get(name)
    if (value?.toLowerCase().startsWith('payment ')) credential = value
  }
  return globalThis.fetch(input, init)
}

const payer = Mppx.create({
  fetch: observed,
  polyfill: false,
  methods: [tempo.charge({ account, getClient: () => client, mode: question.mode })],
})

const answers = []
for (let n = 0; n < question.repeat; n += 1) {
  credential = null
  const response = await payer.fetch(question.url, {
    method: question.method,
    headers: question.headers,
    ...(question.body === null ? {} : { body: question.body }),
  })
  answers.push({
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: await response.text(),
    credential,
  })
}
process.stdout.write(JSON.stringify(answers))
