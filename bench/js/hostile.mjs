// mppx's proxy with the services of tests/hostile/hostile_targets.py, as near as it has them, in front of UPSTREAM.
// Prints its port once it listens. argv: the upstream's URL.
import 'urlpattern-polyfill'
import http from 'node:http'
import { Proxy, custom } from 'mppx/proxy'
import { Mppx, tempo } from 'mppx/server'

const [upstream] = process.argv.slice(2)
const mppx = Mppx.create({
  methods: [
    tempo.charge({
      currency: '0x20c0000000000000000000000000000000000000',
      recipient: '0x742d35Cc6634c0532925a3b844bC9e7595F8fE00',
    }),
  ],
  secretKey: 'a'.repeat(40),
  realm: '127.0.0.1',
})
const price = mppx.charge({ amount: '0.01' })
const proxy = Proxy.create({
  services: [
    custom('shop', {
      baseUrl: upstream,
      routes: {
        // Our GET takes HEAD; here it is a route of its own.
        'GET /thing': price,
        'HEAD /thing': price,
        'GET /users/:id/report': price,
        'HEAD /users/:id/report': price,
        'POST /items': price,
        'GET /items': true,
        '/jobs/@me\\:run': price,
        'GET /live': price,
        'HEAD /live': price,
        '/vault': price,
        '/vault/*': price,
        // A basePath below another is a pattern here.
        '/premium': price,
        '/premium/*': price,
        '/*': true,
      },
    }),
    custom('strict', {
      baseUrl: upstream,
      routes: { '/free': true, '/free/*': true, 'GET /thing': price, 'HEAD /thing': price },
    }),
  ],
})
const server = http.createServer(proxy.listener)
server.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`))
