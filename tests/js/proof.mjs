// Prints the vectors of tests/test_proof.py, made by unmodified mppx and viem.
import { Proof } from 'mppx/tempo'
import { hashTypedData } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'

const account = privateKeyToAccount(`0x${'01'.repeat(32)}`)
const vectors = []
for (const [challengeId, realm, chainId] of [
  ['kM9xPqWvT2nJrHsY4aDfEb', 'api.example.com', 4217],
  ['c2hvcA', 'shop.example', 31337],
]) {
  const data = Proof.typedData({ account: account.address, chainId, challengeId, realm })
  vectors.push({ digest: hashTypedData(data), signature: await account.signTypedData(data) })
}
process.stdout.write(JSON.stringify(vectors))
