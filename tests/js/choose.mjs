// Pays with unmodified mppx that prefers a currency. A JSON question on stdin, {status, credential} on stdout.
import { Mppx, tempo } from 'mppx/client'
import { createClient, http } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { tempoLocalnet } from 'viem/tempo/chains'

const question = JSON.parse(await new Response(process.stdin).text())
const account = privateKeyToAccount(question.key)
const chain = { ...tempoLocalnet, id: question.chainId, rpcUrls: { default: { http: [question.rpcUrl] } } }
const client = createClient({ account, chain, transport: http(question.rpcUrl) })

let credential = null
const observed = (input, init) => {
  const value = new Headers(init?.headers ?? input.headers).get('authorization')
  if (value?.toLowerCase().startsWith('payment ')) credential = value
  return globalThis.fetch(input, init)
}
const wanted = (challenge) =>
  challenge.request.methodDetails?.chainId === question.chainId && challenge.request.currency === question.currency

const payer = Mppx.create({
  fetch: observed,
  polyfill: false,
  methods: [tempo.charge({ account, getClient: () => client, mode: 'pull' })],
  orderChallenges: (candidates) => candidates.filter(({ challenge }) => wanted(challenge)),
})
const response = await payer.fetch(question.url)
process.stdout.write(JSON.stringify({ status: response.status, credential }))
