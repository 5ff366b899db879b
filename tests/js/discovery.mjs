// What unmodified mppx says of a gateway's documents, and of the 402 of each operation they list. It pays nothing.
import { validate } from 'mppx/validation'
import { readFileSync } from 'node:fs'

const { url } = JSON.parse(readFileSync(0, 'utf8'))
const { discovery, endpoints } = await validate({ url, skipPayment: true, yes: true, silent: true })
const said = (where) => ({ label, severity, detail }) => ({ where, label, severity, detail: detail ?? '' })
const checks = [
  ...discovery.checks.map(said('discovery')),
  ...endpoints.flatMap(({ method, path, challenge, errorHandling }) =>
    [...challenge, ...errorHandling].map(said(`${method} ${path}`)),
  ),
]
process.stdout.write(JSON.stringify({ valid: discovery.valid, checks }))
