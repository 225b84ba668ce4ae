"""The consumers' documents, whole files and single operations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from graphql import OperationDefinitionNode, OperationType, parse

FOLDER: Final = Path(__file__).parents[1] / "contract"


@dataclass(frozen=True, slots=True)
class ContractOperation:
    file: str
    source: str
    name: str
    kind: OperationType


def contract_operations() -> list[ContractOperation]:
    found: list[ContractOperation] = []
    for path in sorted(FOLDER.glob("*.graphql")):
        source = path.read_text()
        for definition in parse(source).definitions:
            assert isinstance(definition, OperationDefinitionNode)
            assert definition.name is not None, f"{path.name} has an anonymous operation"
            found.append(
                ContractOperation(path.name, source, definition.name.value, definition.operation)
            )
    return found


def document(name: str) -> str:
    """The file that has the operation `name`."""
    return next(item.source for item in contract_operations() if item.name == name)
