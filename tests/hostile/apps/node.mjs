// An upstream that reads paths as lenient frameworks do: decodes until nothing changes (a proxy decodes, and the
// framework behind it again), resolves dots, ignores case, a last slash and a format (`/thing.json`), and lets headers
// rewrite path and method. One line of the log a request, written before the answer. argv: the log file.
import fs from 'node:fs'
import http from 'node:http'
import path from 'node:path'

const log = fs.openSync(process.argv[2], 'a')

function decoded(text) {
  for (let round = 0; round < 4; round++) {
    let next
    try {
      next = decodeURIComponent(text)
    } catch {
      return text
    }
    if (next === text) return text
    text = next
  }
  return text
}

function read(request) {
  const target = request.headers['x-original-url'] ?? request.headers['x-rewrite-url'] ?? request.url
  const raw = target.replace(/^[a-z]+:\/\/[^/]*/i, '').split(/[?#]/)[0]
  const clean = path.posix.normalize('/' + decoded(raw).replaceAll('\\', '/')).toLowerCase()
  const plain = clean.replace(/\.[a-z]+$/, '').replace(/\/+$/, '') || '/'
  const override = ['x-http-method-override', 'x-method-override', 'x-http-method'].find((name) => request.headers[name])
  const method = (request.headers[override] ?? request.method).toUpperCase()
  return { plain, method }
}

function resource({ plain, method }) {
  const reads = method === 'GET' || method === 'HEAD'
  if (plain === '/thing' && reads) return 'paid:thing'
  if (plain === '/live' && reads) return 'paid:live'
  if (/^\/users\/[^/]+\/report$/.test(plain) && reads) return 'paid:report'
  if (plain === '/items' && method === 'POST') return 'paid:items'
  if (plain === '/jobs/@me:run') return 'paid:job'
  if (/^\/vault(\/|$)/.test(plain)) return 'paid:vault'
  if (/^\/premium(\/|$)/.test(plain)) return 'paid:premium'
  return 'free'
}

const server = http.createServer((request, response) => {
  const parts = []
  request.on('data', (part) => parts.push(part))
  request.on('end', () => {
    const name = resource(read(request))
    const hit = { resource: name, method: request.method, target: request.url, headers: request.rawHeaders.join('\n'), body: Buffer.concat(parts).length }
    fs.writeSync(log, JSON.stringify(hit) + '\n')
    response.setHeader('content-type', 'text/plain')
    response.end(`served ${name}\n`)
  })
})
server.on('upgrade', (request, socket) => {
  const hit = { resource: resource(read(request)), method: request.method, target: request.url, headers: request.rawHeaders.join('\n'), body: 0 }
  fs.writeSync(log, JSON.stringify(hit) + '\n')
  socket.end('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n')
})
server.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`))
