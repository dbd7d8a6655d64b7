"""The models that a nested evaluation or a sweep tries: a config with some fields changed."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from emoflax.errors import UserError
from emoflax.experiment import checks


def candidates_of(config: ConfigDict) -> dict[str, ConfigDict]:
    """Name -> config. Raises UserError for a name or a field that cannot be."""
    changes = config.crossval.candidates or {config.name: {}}
    return {name: override(config, name, fields) for name, fields in changes.items()}


def override(config: ConfigDict, name: str, fields: Mapping) -> ConfigDict:
    """A copy of the config in which the dotted fields have other values."""
    checks.check_candidate(name, fields, config)
    changed = config.copy_and_resolve_references().lock()
    try:
        changed.update_from_flattened_dict(fields)
        checks.prepare(changed)
    except UserError as error:
        raise UserError(f"candidate {name}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # ml_collections', of a field and its type
        raise UserError(f"candidate {name}: {' '.join(str(error).split())}") from error
    return changed
