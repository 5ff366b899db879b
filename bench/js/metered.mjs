// mppx's proxy as the fault matrix has it: on a development chain, with a store that survives the process. A JSON
// question on stdin; prints its port once it listens.
import 'urlpattern-polyfill'
import fs from 'node:fs'
import http from 'node:http'
import { Store } from 'mppx'
import { Proxy, custom } from 'mppx/proxy'
import { Mppx, tempo } from 'mppx/server'
import { createClient, http as transport } from 'viem'
import { tempoLocalnet } from 'viem/tempo/chains'

const question = JSON.parse(fs.readFileSync(0, 'utf8'))
const chain = {
  ...tempoLocalnet,
  id: question.chainId,
  rpcUrls: { default: { http: [question.rpcUrl] } },
}
const client = createClient({ chain, transport: transport(question.rpcUrl, { retryCount: 3 }) })

// One file, read at the start and replaced at each change: whoever starts this again finds all of it.
const kept = fs.existsSync(question.store) ? JSON.parse(fs.readFileSync(question.store, 'utf8')) : {}
const write = () => {
  fs.writeFileSync(question.store + '.new', JSON.stringify(kept))
  fs.renameSync(question.store + '.new', question.store)
}
const store = Store.from({
  async get(key) {
    return kept[key] ?? null
  },
  async put(key, value) {
    kept[key] = value
    write()
  },
  async delete(key) {
    delete kept[key]
    write()
  },
  async update(key, change) {
    const made = change(kept[key] ?? null)
    if (made.op === 'set') kept[key] = made.value
    if (made.op === 'delete') delete kept[key]
    if (made.op !== 'noop') write()
    return made.result
  },
})

const mppx = Mppx.create({
  methods: [
    tempo.charge({
      currency: '0x20c0000000000000000000000000000000000000',
      recipient: question.recipient,
      getClient: () => client,
      store,
    }),
  ],
  secretKey: question.secretKey,
  realm: '127.0.0.1',
})
// Hardfork T4 includes no transaction that is valid for longer than 30 s.
const price = (request) =>
  mppx.charge({ amount: '0.0015', expires: new Date(Date.now() + 25_000).toISOString() })(request)
const proxy = Proxy.create({
  services: [
    custom('shop', {
      baseUrl: question.upstream,
      routes: {
        'GET /thing': price,
        'POST /sealed': price,
        'GET /live': price,
        'POST /once': price,
      },
    }),
  ],
})
const server = http.createServer(proxy.listener)
server.listen(question.port, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`))
