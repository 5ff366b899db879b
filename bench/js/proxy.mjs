// mppx's proxy in front of UPSTREAM, listening on PORT: one free and one priced route.
import 'urlpattern-polyfill'
import http from 'node:http'
import { Proxy, custom } from 'mppx/proxy'
import { Mppx, tempo } from 'mppx/server'

const [upstream, port] = process.argv.slice(2)
const mppx = Mppx.create({
  methods: [
    tempo.charge({
      currency: '0x20c0000000000000000000000000000000000000',
      recipient: '0x742d35Cc6634c0532925a3b844bC9e7595F8fE00',
    }),
  ],
  secretKey: 'a'.repeat(40),
  realm: 'bench.local',
})
const proxy = Proxy.create({
  services: [
    custom('svc', {
      baseUrl: upstream,
      bearer: 'sk-x',
      routes: { 'GET /free': true, 'GET /paid': mppx.charge({ amount: '0.01' }) },
    }),
  ],
})
http.createServer(proxy.listener).listen(Number(port), '127.0.0.1', () => console.log('ready'))
