"""Decides which system a program runs on, and with which options, from everything that may say so.

From the strongest to the weakest:

1. the program itself: ``bm.start("local")``, or a ``System`` object, which settles everything;
2. flags: ``--system``, ``--profile`` and ``--system-option`` of ``bigmachine run``, or of the
   program's own command line (``bm.driver``);
3. the environment: ``BIGMACHINE_SYSTEM``, ``BIGMACHINE_PROFILE``, ``BIGMACHINE_<SYSTEM>_<OPTION>``;
4. the profile in force in ``bigmachine.toml``;
5. ``local``, with its own defaults.

The profile in force is the one that the strongest of flags, environment and the file's
``default_profile`` names. Whoever names a profile means its system too, so a profile named by a
flag chooses the system before ``BIGMACHINE_SYSTEM`` does. For a single option the order is as
above: a variable can always override one line of the file.

Every setting keeps its source, and an error names it. An empty variable counts as one not set.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bigmachine.errors import UsageError
from bigmachine.spelling import about, alternatives, closest, names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bigmachine.configfile import ConfigFile, ImageTable, Profile
    from bigmachine.systems.base import Option, System

__all__ = [
    "Flags",
    "Setting",
    "Settings",
    "current_flags",
    "image_table",
    "resolve",
    "set_flags",
    "using_flags",
]

PREFIX = "BIGMACHINE_"
DEFAULT_SYSTEM = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What a command line says.

    Attributes:
        system: The name of a system.
        profile: The name of a profile in ``bigmachine.toml``.
        options: Options of the system, in text.
        words: Which of these were said without a flag, as ``bigmachine doctor`` takes them: the
            system's name, and ``name=value``.
    """

    system: str | None = None
    profile: str | None = None
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    words: frozenset[str] = field(default=frozenset(), repr=False)

    def over(self, weaker: Flags) -> Flags:
        """Return these flags where they say something, and ``weaker`` where they do not.

        A profile chooses a system, and options are of one: flags that choose another system leave
        the weaker one's options behind.
        """
        same = not (self.system or self.profile) or self.system == weaker.system
        return Flags(
            system=self.system or (weaker.system if same else None),
            profile=self.profile or weaker.profile,
            options=(*(weaker.options if same else ()), *self.options),
            words=self.words | weaker.words,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A value and who gave it.

    Attributes:
        value: What was said: a text where it came from a flag or a variable, else TOML's value.
        source: Where: ``--system``, ``BIGMACHINE_SYSTEM``, ``/home/me/bigmachine.toml:7``.
        text: Whether the value was given in text and stands for what the option's type makes of it.
    """

    value: Any = field(repr=False)
    source: str
    text: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was decided, and by whom.

    Attributes:
        system: The system's name.
        source: Where this name was set.
        profile: The profile in force, or None.
        options: What was set of the system's options, not yet checked.
        given: The system itself, when the program gave one.
        by_flags: Whether the command line chose the system, by its name or by a profile's.
    """

    system: str
    source: str
    profile: str | None = None
    options: Mapping[str, Setting] = field(default_factory=dict)
    given: System | None = None
    by_flags: bool = False

    def make_system(self) -> System:
        """Return the system that the program gave, or make the one that was decided on.

        Raises:
            UsageError: There is no such system, it has no such option, a value does not fit or one
                is missing. The text names the setting, its source and what is allowed.
        """
        if self.given is not None:
            return self.given
        from bigmachine.systems.registry import find_system

        cls = find_system(self.system, source=self.source)
        known = cls.options()
        values = {
            name: self._value(name, known)
            for name, setting in self.options.items()
            if name in known or not _is_of_another(self.system, setting.source)
        }
        for name, option in known.items():
            if option.required and name not in values:
                raise UsageError(self._ask_for(name))
        try:
            return cls(**values)
        except ValueError as exc:
            raise UsageError(about(self.system, str(exc)) + self._sources(str(exc))) from exc

    def _value(self, name: str, known: Mapping[str, Option]) -> Any:
        setting = self.options[name]
        if name not in known:
            options = alternatives("its options are", name, known)
            raise UsageError(
                f"{setting.source}: the system {self.system!r} has no option {name!r}; {options}"
            )
        from bigmachine.systems.options import convert

        try:
            return convert(known[name].type, setting.value, text=setting.text)
        except ValueError as exc:
            raise UsageError(
                f"{setting.source}: {name} of the system {self.system!r}: {exc}"
            ) from None

    def _sources(self, complaint: str) -> str:
        """Return who set the options that a complaint is about: all, where it names none."""
        named = [name for name in self.options if names(complaint, name)]
        sources = (f"{name} by {self.options[name].source}" for name in named or self.options)
        return f" (set: {', '.join(sources)})" if self.options else ""

    def _ask_for(self, option: str) -> str:
        profile = self.profile or "NAME"
        return (
            f"the system {self.system!r} (chosen by {self.source}) needs the option {option!r}: "
            f"set {_variable(self.system)}{option.upper()}, --system-option {option}=..., or "
            f"{option} under [profiles.{profile}.{self.system}] in bigmachine.toml"
        )


# The flags of `bigmachine run`, which hold for the whole process. Not in the environment: the
# processes that a program starts would inherit them, and are programs of their own.
_process_flags = Flags()
# The flags of `bm.driver.start`, which hold for that call.
_call_flags: ContextVar[Flags | None] = ContextVar("bigmachine_flags", default=None)


def set_flags(flags: Flags) -> None:
    """Let flags hold for this process, from now on."""
    global _process_flags
    _process_flags = flags


@contextmanager
def using_flags(flags: Flags) -> Iterator[None]:
    """Let flags hold for what is called inside, before those of the process."""
    token = _call_flags.set(flags)
    try:
        yield
    finally:
        _call_flags.reset(token)


def current_flags() -> Flags:
    """Return the flags that hold here."""
    flags = _call_flags.get()
    return _process_flags if flags is None else flags.over(_process_flags)


def resolve(
    system: System | str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    flags: Flags | None = None,
) -> Settings:
    """Decide on a system and its options.

    Args:
        system: What the program says: a system, the name of one, or None.
        environ: The environment; None: this process's.
        cwd: Where to look for ``bigmachine.toml``, and upwards; None: the working directory.
        flags: What the command line says; None: ``current_flags()``.

    Raises:
        UsageError: ``system`` is none of these, the profile does not exist, or the file is wrong.
    """
    if system is not None and not isinstance(system, str):
        return _given(system)
    import os
    from pathlib import Path

    environ = os.environ if environ is None else environ
    flags = current_flags() if flags is None else flags
    file = _file(Path.cwd() if cwd is None else cwd)
    named, by_flag = _profile(file, flags, environ)
    chosen = _system(system, flags, environ, file, named, by_flag=by_flag)
    named_system = flags.system or (by_flag and named and named.system)
    options = {
        **_options_of_profile(chosen.value, file, named),
        **_options_of_environment(chosen.value, environ),
        **_options_of_flags(chosen.value, flags),
    }
    return Settings(
        system=chosen.value,
        source=chosen.source,
        profile=named.name if named else None,
        options=options,
        by_flags=system is None and bool(named_system),
    )


def image_table(cwd: Path | None = None) -> ImageTable:
    """Return what ``bigmachine.toml`` says of images, whatever the system and whoever chose it.

    Args:
        cwd: Where to look for the file, and upwards; None: the working directory.

    Raises:
        UsageError: The file is wrong.
    """
    from pathlib import Path

    from bigmachine.configfile import ImageTable

    directory = Path.cwd() if cwd is None else cwd
    file = _file(directory)
    return ImageTable(base=str(directory)) if file is None else file.image


def _given(system: object) -> Settings:
    from bigmachine.systems.base import System

    if isinstance(system, System):
        return Settings(system=system.name, source="the program", given=system)
    hint = ""
    if isinstance(system, type) and issubclass(system, System):
        hint = f": write {system.__name__}()"
    raise UsageError(f"a system is a System object, the name of one or None, not {system!r}{hint}")


def _file(directory: Path) -> ConfigFile | None:
    from bigmachine.configfile import find_config_file, read_config_file

    path = find_config_file(directory)
    return read_config_file(path) if path else None


def _profile(
    file: ConfigFile | None, flags: Flags, environ: Mapping[str, str]
) -> tuple[Profile | None, bool]:
    """Return the profile in force, and whether a flag named it."""
    variable = f"{PREFIX}PROFILE"
    if flags.profile:
        return _find_profile(file, flags.profile, "--profile"), True
    if name := environ.get(variable):
        return _find_profile(file, name, variable), False
    if file and file.default_profile:
        place = file.place("default_profile")
        return _find_profile(file, file.default_profile, f"{place}: default_profile"), False
    return None, False


def _find_profile(file: ConfigFile | None, name: str, source: str) -> Profile:
    if file is None:
        raise UsageError(
            f"{source}: there is no profile {name!r}, since there is no bigmachine.toml in the "
            "working directory or above it"
        )
    if name not in file.profiles:
        known = alternatives("its profiles are", name, file.profiles)
        raise UsageError(f"{source}: there is no profile {name!r} in {file.path}; {known}")
    return file.profiles[name]


def _system(
    system: str | None,
    flags: Flags,
    environ: Mapping[str, str],
    file: ConfigFile | None,
    profile: Profile | None,
    *,
    by_flag: bool,
) -> Setting:
    """Return the name of the system from the strongest source that has one."""
    variable = f"{PREFIX}SYSTEM"
    if system is not None:
        return Setting(value=system, source="the program")
    if flags.system:
        in_words = flags.system in flags.words
        source = f"the argument {flags.system!r}" if in_words else "--system"
        return Setting(value=flags.system, source=source)
    from_profile = None
    if file and profile and profile.system:
        place = file.place("profiles", profile.name, "system")
        from_profile = Setting(value=profile.system, source=place)
    if from_profile and by_flag:
        return from_profile
    if name := environ.get(variable):
        return Setting(value=name, source=variable)
    return from_profile or Setting(value=DEFAULT_SYSTEM, source="the default")


def _options_of_profile(
    system: str, file: ConfigFile | None, profile: Profile | None
) -> dict[str, Setting]:
    if file is None or profile is None:
        return {}
    _refuse_unknown_tables(system, file, profile)
    keys = ("profiles", profile.name, system)
    return {
        _parameter(name): Setting(value=value, source=file.place(*keys, name), text=False)
        for name, value in profile.options.get(system, {}).items()
    }


def _refuse_unknown_tables(system: str, file: ConfigFile, profile: Profile) -> None:
    """Refuse a table of options that is meant for the chosen system and misspells it.

    Tables of other systems may stand there even where those are not installed: a project's file
    is shared by people who do not all use the same.
    """
    for name in profile.options:
        if name != system and closest(name, [system]):
            from bigmachine.systems.registry import system_names

            known = system_names()
            if name not in known:
                place = file.place("profiles", profile.name, name)
                raise UsageError(
                    f"{place}: profiles.{profile.name}.{name}: there is no system {name!r}; "
                    f"did you mean {system!r}?"
                )


def _options_of_environment(system: str, environ: Mapping[str, str]) -> dict[str, Setting]:
    prefix = _variable(system)
    return {
        _parameter(variable.removeprefix(prefix)): Setting(value=value, source=variable)
        for variable, value in sorted(environ.items())
        if variable.startswith(prefix) and value
    }


def _options_of_flags(system: str, flags: Flags) -> dict[str, Setting]:
    """Return the options of the command line; they belong to the system that it names, if any."""
    if flags.system not in (None, system):
        return {}
    found = {}
    for name, value in flags.options:
        in_words = f"{name}={value}" in flags.words
        source = f"the argument {f'{name}=...'!r}" if in_words else f"--system-option {name}"
        found[_parameter(name)] = Setting(value=value, source=source)
    return found


def _variable(system: str) -> str:
    """Return what the variables of a system's options begin with: ``BIGMACHINE_EC2_``."""
    return f"{PREFIX}{system.upper().replace('-', '_')}_"


def _is_of_another(system: str, source: str) -> bool:
    """Say whether a variable is another system's: ``BIGMACHINE_EC2_SPOT_X`` of ``ec2-spot``."""
    from bigmachine.systems.registry import system_names

    prefixes = (_variable(name) for name in system_names() if name != system)
    return any(source.startswith(each) and each.startswith(_variable(system)) for each in prefixes)


def _parameter(name: str) -> str:
    """Return the parameter of an option that may be written as in a file: ``start-method``."""
    return name.lower().replace("-", "_")
