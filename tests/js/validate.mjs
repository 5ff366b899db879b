// Runs mppx's own validation of a server: {url, rpcUrl, endpoint, body} on stdin, its results on stdout.
//
// Unmodified, but for one thing: what it asks the public test network goes to the chain at rpcUrl, which has the same
// chain id. There is no other way to name a chain to it.
import { validate } from 'mppx/validation'

const { url, rpcUrl, ...options } = JSON.parse(await new Response(process.stdin).text())
const publicNode = 'https://rpc.moderato.tempo.xyz'
const { fetch } = globalThis
let chainWasAsked = 0
globalThis.fetch = (input, init) => {
  const asked = typeof input === 'string' ? input : (input.url ?? input.href)
  if (!asked.startsWith(publicNode)) return fetch(input, init)
  chainWasAsked += 1
  return input instanceof Request ? fetch(new Request(rpcUrl, input), init) : fetch(rpcUrl, init)
}
const found = await validate({ url, ...options, interactive: false, verbose: false })
const { doc, ...discovery } = found.discovery // it is long, and known
process.stdout.write(JSON.stringify({ ...found, discovery, chainWasAsked }))
process.exit(0) // viem keeps its connections open
