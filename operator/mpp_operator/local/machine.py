"""A gateway on one machine: publishes what the files say, keeps its children, takes changes or says why not."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mpp_operator import banner, console, directory, networks, statedir
from mpp_operator.local import children, inputs, probe
from mpp_operator.local.ground import Ground
from mpp_operator.local.inputs import Inputs

#: Seconds, after which it is said what takes so long.
_SLOW: Final = 1.0


@dataclass(slots=True)
class Machine:
    """From its first publication to its end."""

    ground: Ground
    out: console.Console
    inputs: Inputs
    authz: children.Authz = field(init=False)
    envoy: children.Envoy = field(init=False)
    _complaints: tuple[str, ...] = ()  # of the last reload: the same ones are said once
    _later_ledger: str = ""  # what the files said at the last reload: another one is said once

    def __post_init__(self) -> None:
        self.authz = children.Authz(self.ground, self.out, lambda: self.inputs)
        self.envoy = children.Envoy(self.ground, self.out, lambda: self.inputs)

    @property
    def base(self) -> str:
        """Scheme, address and port of the listener."""
        listen = self.inputs.compiled.sources.config.listen
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.address, listen.address)  # noqa: S104
        scheme = "https" if self.inputs.certificate else "http"
        return f"{scheme}://{f'[{address}]' if ':' in address else address}:{self.ground.port}"

    # --- publishing ----------------------------------------------------------------------------------

    def publish(self, files: Inputs) -> bool:
        """Secrets first: a cluster that names one finds it. Pricing and routes change in one swap."""
        self.envoy.forget_refusals()
        changed = directory.publish(self.ground.state.secrets, files.secret_files, mode=0o600)
        return directory.publish(self.ground.state.config, files.compiled.compilation.artifacts) or changed

    async def reload(self) -> None:
        """Take the files as they are now, if they are good; else say why not and go on as before."""
        try:
            fresh = await asyncio.to_thread(inputs.read, self.ground, self.out.say)
        except console.Failure as failure:
            self._complain(failure.problems)
            return
        before = self.inputs
        fresh = self._until_next_start(before, fresh)
        try:
            if not self.publish(fresh):
                self._complaints = ()
                return
        except OSError as error:  # a full disk, say: what was published before stays
            with contextlib.suppress(OSError):
                self.publish(before)  # secrets come first, and may have changed alone
            said = statedir.unusable(self.ground.state.root, error)
            self._complain((f"{said}; then save a file again, or send SIGHUP",))
            return
        self._complaints = ()
        self.inputs = fresh
        if not await self.envoy.refuses(fresh.compiled.compilation.artifacts):
            self.authz.process.signal(signal.SIGHUP)
            self.announce()
            return
        self.publish(before)  # both planes go on with what was good
        self.inputs = before
        self.out.say(f"still serving revision {before.revision}")

    def _complain(self, problems: tuple[str, ...]) -> None:
        if problems != self._complaints:
            self._complaints = problems
            self.out.problems(problems)
            self.out.say(f"still serving revision {self.inputs.revision}")

    def _until_next_start(self, before: Inputs, fresh: Inputs) -> Inputs:
        """`fresh` without what cannot change while we run; that is said."""
        if children.envoy_settings(self.ground, before) != children.envoy_settings(self.ground, fresh):
            self.out.warn("gateway.yaml: listen, tls and timeouts of Checks take effect at the next start")
        if fresh.ledger not in (before.ledger, self._later_ledger):
            self.out.warn("gateway.yaml: another store, or address of it, takes effect at the next start")
        self._later_ledger = fresh.ledger
        # What was paid is in the one we began with: an authz that starts again must find it there.
        return replace(fresh, ledger=before.ledger)

    def announce(self) -> None:
        """The ready line, at start and after each reload, with what is not as its author meant it."""
        for warning in self.inputs.compiled.warnings:
            self.out.warn(warning)
        services = banner.describe(self.inputs.compiled, self.base)
        chain = self.ground.chain
        test_money = None
        if chain is not None:
            test_money = {
                "rpcUrl": chain.rpc_url,
                "chainId": chain.chain_id,
                "network": networks.LOCALNET,
                "buyer": chain.buyer,
                "buyerKey": chain.buyer_key,
                "payee": chain.payee,
            }
        if not self.ground.options.as_json:
            for line in banner.lines(self.base, services, test_money):
                self.out.result(line)
            return
        document: dict[str, Any] = {
            "ready": True,
            "url": self.base,
            "pid": os.getpid(),
            "authzPid": self.authz.process.pid,
            "envoyPid": self.envoy.process.pid,
            "http": f"http://{self.authz.http}",
            "revision": self.inputs.revision,
            "stateDir": str(self.ground.state.root),
            "sockets": str(self.ground.state.sockets),
            "services": services,
        }
        if test_money is not None:
            document["sandbox"] = test_money
        self.out.result(json.dumps(document, sort_keys=True))

    # --- starting and stopping -----------------------------------------------------------------------

    async def start(self) -> None:
        """Start authz, then Envoy, then ask a real question through the listener.

        Raises:
            Failure: one of them does not serve.
        """
        async with _slowly(self.out, "starting authz"):
            await self.authz.start()
        async with _slowly(self.out, "starting envoy"):
            await self.envoy.start()
        await probe.ask(self.base, probe.question(self.inputs))

    async def stop(self) -> None:
        """Requests in flight first, then those who serve them. Bounded."""
        if self.envoy.process.pid:
            self.out.say("stopping")
            await self.envoy.drain()
        await self.envoy.stop()
        await self.authz.stop()


@contextlib.asynccontextmanager
async def _slowly(out: console.Console, what: str) -> AsyncIterator[None]:
    """Say what is going on, if it takes long."""
    handle = asyncio.get_running_loop().call_later(_SLOW, out.say, f"{what} …")
    try:
        yield
    finally:
        handle.cancel()
