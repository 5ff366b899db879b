// Answers one challenge with unmodified mppx: {wwwAuthenticate, ...} on stdin, {credential} on stdout.
import { Challenge } from 'mppx'
import { tempo } from 'mppx/client'
import { createClient, http } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { tempoLocalnet } from 'viem/tempo/chains'

const question = JSON.parse(await new Response(process.stdin).text())
const account = privateKeyToAccount(question.key)
const chain = { ...tempoLocalnet, id: question.chainId, rpcUrls: { default: { http: [question.rpcUrl] } } }
const client = createClient({ account, chain, transport: http(question.rpcUrl) })
const [method] = [tempo.charge({ account, getClient: () => client, ...(question.mode ? { mode: question.mode } : {}) })].flat()
const challenge = Challenge.deserialize(question.wwwAuthenticate)
const credential = await method.createCredential({ challenge, context: {} })
process.stdout.write(JSON.stringify({ credential }))
