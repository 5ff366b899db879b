// Unmodified mppx as a second reader and writer of everything on the wire, for as long as stdin is open.
//
//   {"id", "op", ...}  ->  {"id", "is": value}, or {"id", "refused": "the error's name and text"}
//
// Ours to say: which functions of mppx a question means. Nothing is read, written or compared by our own code.
import { createInterface } from 'node:readline'
import { BodyDigest, Challenge, Credential, PaymentRequest, Receipt } from 'mppx'
// The server's own negotiation; the package exports it nowhere.
import * as AcceptPayment from './node_modules/mppx/dist/internal/AcceptPayment.js'

const headersOf = (lines) => {
  const headers = new Headers()
  for (const line of lines) headers.append('www-authenticate', line)
  return headers
}

const operations = {
  'challenge id': ({ secretKey, challenge }) => Challenge.from({ ...challenge, secretKey }).id,
  'write challenge': ({ challenge }) => Challenge.serialize(Challenge.from(challenge)),
  'read challenges': ({ lines }) => Challenge.fromHeadersList(headersOf(lines)),
  'verify challenge': ({ secretKey, lines }) =>
    Challenge.fromHeadersList(headersOf(lines)).map((read) => Challenge.verify(read, { secretKey })),
  canonical: ({ document }) => PaymentRequest.serialize(document),
  'write credential': ({ credential }) => Credential.serialize(Credential.from(credential)),
  // As its server reads a request: the first Payment credential of the header.
  'read credential': ({ value }) => Credential.deserialize(Credential.extractPaymentScheme(value) ?? ''),
  'is ours': ({ secretKey, value }) =>
    Challenge.verify(Credential.deserialize(Credential.extractPaymentScheme(value) ?? '').challenge, { secretKey }),
  digest: ({ body }) => BodyDigest.compute(body),
  'digest matches': ({ digest, body }) => BodyDigest.verify(digest, body),
  'write receipt': ({ receipt }) => Receipt.serialize(Receipt.from(receipt)),
  'read receipt': ({ value }) => Receipt.deserialize(value),
  // As its server composes a 402: positions of the offers, in order.
  'accept payment': ({ kinds, header }) => {
    const offers = kinds.map(([method, intent], at) => ({ method, intent, at }))
    return AcceptPayment.rank(offers, AcceptPayment.parse(header)).map(({ at }) => at)
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, op, ...question } = JSON.parse(line)
  let answer
  try {
    answer = { id, is: operations[op](question) ?? null }
  } catch (error) {
    answer = { id, refused: `${error?.name}: ${error?.message}`.slice(0, 300) }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
