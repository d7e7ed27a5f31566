"""What each method of a mesh is to demand: its contract on disk, under the overrides of mesh.toml."""

from collections.abc import Iterator
from dataclasses import replace

from google.protobuf.descriptor import Descriptor

from hauberk.cli.contracts import Contracts, Method, Place
from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.overrides import SHADOW, line_of, overrides_of
from hauberk.cli.state import State
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.overrides import Override
from hauberk.interceptors.policy import Policy


class Written:
    """Everything that lies on disk."""

    def __init__(self, state: State, mesh: MeshFile, contracts: Contracts) -> None:
        """Raises MeshFileError for an override that is none."""
        self.contracts = contracts
        self._overrides = overrides_of(mesh.policy, mesh.services, state.mesh_file.name)
        self._file = state.mesh_file.name
        self._text = state.mesh_file.read_text()

    @property
    def services(self) -> dict[str, dict[str, Method]]:
        """The contracts' methods, overridden, by service and path. Raises CommandFailed."""
        return {
            service: {path: self.over(method) for path, method in methods.items()}
            for service, methods in self.contracts.services.items()
        }

    def method(self, path: str) -> Method | None:
        """One of them, with its policy; None: no contract here has it.

        Raises CommandFailed where no server could enforce what is written.
        """
        found = self.contracts.methods.get(path)
        if found is None:
            return None
        if found.policy is None:
            raise CommandFailed(found.complaint, f"correct it: {found.declared}")
        return self.over(found)

    def announced(self, declared: Policy) -> Method:
        """The method of a contract that is not here, but was announced with this policy."""
        place = Place(declared.origin)
        found = Method(path=declared.method, policy=declared, complaint="", declared=place, option=place)
        return self.over(found)

    def over(self, method: Method) -> Method:
        """The method as it is overridden. Raises CommandFailed where its contract excludes that."""
        override = self._overrides.by_method.get(method.path)
        if override is None or method.policy is None:
            return method
        try:
            policy = override.over(method.policy)
        except PolicyError as error:
            raise CommandFailed(str(error), f"correct it: {self.place(override)}") from None
        places = {name: self.place(override, name) for name in (*override.said, SHADOW)}
        return replace(method, policy=policy, overridden=places)

    def astray(self) -> Iterator[tuple[Override, Place]]:
        """Overrides of methods that their contract, which is here, does not have."""
        for path, override in self._overrides.by_method.items():
            if override.service in self.contracts.services and path not in self.contracts.methods:
                yield override, self.place(override)

    def place(self, override: Override, name: str = "") -> Place:
        """The line on which it says `name`; of the whole, that of its heading."""
        return Place(self._file, line_of(self._text, override.method, name))

    def request(self, path: str) -> Descriptor | None:
        """The type of the messages that callers of a method send, if its contract is here."""
        return self.contracts.request(path) if path in self.contracts.methods else None
