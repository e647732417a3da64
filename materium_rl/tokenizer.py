"""Structure <-> token ids.

Every structure is reduced to its primitive Niggli cell first, in one of its equivalent settings
(``canonical.py``). Coordinates are rounded to a periodic grid, lengths and angles to fixed steps, and
decoding returns the grid point itself, so 0, 1/2, 1/3, 1/4, 1/6 and 1/8 are exact on a grid divisible
by 24. Nothing is clipped.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pymatgen.core import Element, Lattice, Species, Structure
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from materium_rl.canonical import canonical_setting
from materium_rl.errors import PolicyError, TokenizationError
from materium_rl.resources import TOKENIZER_VERSION, pretrained_folder
from materium_rl.structures import covalent_radii, minimum_distance_ratio, to_primitive_niggli
from materium_rl.token_layout import CELL_NUMBERS, TokenClass, TokenLayout

SPECIAL_TOKENS = ("[PAD]", "[SOS]", "[ATOMS]", "[LATTICE]", "[EOS]")
SiteOrder = Literal["electronegativity", "heavy_first", "light_first", "xyz", "random"]


class TokenizerSettings(BaseModel):
    """How a structure becomes tokens; saved with every policy.

    Args:
        species: Species tokens, such as ``Fe`` or, with oxidation states, ``Fe|+3``.
        site_order: Order in which the sites are written.
        grid: Points of the periodic coordinate grid; divisible by 24.
        length_step: Step of a, b, c in Å.
        length_range: Smallest and largest length in Å.
        angle_step: Step of the angles in degrees.
        angle_range: Smallest and largest angle in degrees (Niggli cells stay within 60..120).
        max_sites: Largest number of sites of the primitive cell.
        canonical: Choose one of the equivalent axes and origins; else take those of the reduced cell.
        min_distance: Least distance of two sites that may be written, over the sum of their covalent radii.
        version: Version of the token layout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    species: tuple[str, ...] = Field(min_length=1)
    site_order: SiteOrder = "electronegativity"
    grid: int = Field(default=960, multiple_of=24, ge=24)
    length_step: float = Field(default=0.01, gt=0)
    length_range: tuple[float, float] = (1.5, 50.0)
    angle_step: float = Field(default=0.1, gt=0)
    angle_range: tuple[float, float] = (59.0, 121.0)
    max_sites: int = Field(default=20, ge=1)
    canonical: bool = True
    min_distance: float = Field(default=0.65, ge=0)
    version: int = TOKENIZER_VERSION

    @field_validator("species")
    @classmethod
    def _known_species(cls, species: tuple[str, ...]) -> tuple[str, ...]:
        for token in species:
            symbol = token.split("|")[0]
            if not Element.is_valid_symbol(symbol):
                raise ValueError(f"{token!r} is not a species: expected e.g. 'Fe' or 'Fe|+3'")
        if len(set(species)) != len(species):
            raise ValueError("a species token is listed twice")
        return species

    def layout(self) -> TokenLayout:
        """Id ranges of these settings."""
        low, high = self.length_range
        angle_low, angle_high = self.angle_range
        elements = tuple(Element(token.split("|")[0]) for token in self.species)
        return TokenLayout(
            species_rank=_species_rank(elements, self.site_order),
            species_element=tuple(element.symbol for element in elements),
            radii=tuple(covalent_radii()[[element.Z for element in elements]].tolist()),
            grid=self.grid,
            length_min=low,
            length_step=self.length_step,
            n_lengths=round((high - low) / self.length_step) + 1,
            angle_min=angle_low,
            angle_step=self.angle_step,
            n_angles=round((angle_high - angle_low) / self.angle_step) + 1,
            max_sites=self.max_sites,
            min_distance=self.min_distance,
        )


def read_settings(saved: Mapping[str, Any]) -> TokenizerSettings:
    """Token settings as they are saved with a policy.

    Raises:
        PolicyError: They are of another version.
    """
    version = saved.get("version")
    if version != TOKENIZER_VERSION:
        raise PolicyError(
            f"this policy was written with tokenizer version {version}, this program reads version "
            f"{TOKENIZER_VERSION}: install the matching materium-rl release or retrain the policy"
        )
    return TokenizerSettings.model_validate(saved)


def species_token(specie: Species | Element) -> str:
    """``Fe`` for an element, ``Fe|+3`` for a species with an oxidation state."""
    oxidation = getattr(specie, "oxi_state", None)
    if oxidation is None or isinstance(specie, Element):
        return str(specie.symbol)
    return f"{specie.symbol}|{oxidation:+g}"


def species_of(structures: Iterable[Structure]) -> tuple[str, ...]:
    """Sorted species tokens that occur in ``structures``, lightest element first."""
    found = {species_token(specie) for s in structures for specie in set(s.species)}
    return tuple(sorted(found, key=lambda token: (Element(token.split("|")[0]).Z, token)))


class CrystalCodec:
    """Encodes structures as token ids and back.

    Args:
        settings: Token settings.
    """

    def __init__(self, settings: TokenizerSettings) -> None:
        self.settings = settings
        self.layout = settings.layout()
        self._species_id = {s: self.layout.species_start + i for i, s in enumerate(settings.species)}
        self._oxidation = any("|" in s for s in settings.species)
        self._rank = np.array(self.layout.species_rank)

    @property
    def species_rank(self) -> np.ndarray:
        """Place of each species token in the site order, shape (n_species,); ties go by coordinates."""
        return self._rank

    @property
    def prompt(self) -> list[int]:
        """Ids of the unconditional prompt ``[SOS] [ATOMS]``."""
        return [int(TokenClass.SOS), int(TokenClass.ATOMS)]

    def encode(
        self, structure: Structure, *, reduce: bool = True, rng: random.Random | None = None
    ) -> list[int]:
        """Token ids of one structure, from ``[SOS]`` to ``[EOS]``.

        Args:
            structure: Ordered structure.
            reduce: Reduce to the primitive Niggli cell first; False if that was done already.
            rng: Source of the order when ``site_order`` is ``random``.

        Raises:
            TokenizationError: Disordered sites, an unknown species, too many sites, a cell outside the
                ranges, or sites closer than the grammar writes; names the value and the limit.
        """
        if not structure.is_ordered:
            raise TokenizationError("disordered: a site holds several species; expected one species per site")
        if reduce:
            structure = to_primitive_niggli(structure)
        if len(structure) > self.settings.max_sites:
            limit = self.settings.max_sites
            raise TokenizationError(
                f"too many sites: {len(structure)} in the primitive cell, the limit is {limit}"
            )
        structure = self.setting(structure)
        species = np.array([self._species_ids(specie) for specie in structure.species])
        rank = self._rank[species - self.layout.species_start]
        grid = np.rint(structure.frac_coords * self.settings.grid).astype(int) % self.settings.grid
        order = self._site_order(rank, grid, rng)
        ids = [*self.prompt, *species[order].tolist(), int(TokenClass.LATTICE)]
        for name, value in zip("abc", structure.lattice.abc, strict=True):
            step = self._step(name, value, "Å", self.settings.length_range)
            ids.append(self.layout.length_start + step)
        for name, value in zip(("alpha", "beta", "gamma"), structure.lattice.angles, strict=True):
            step = self._step(name, value, "degrees", self.settings.angle_range)
            ids.append(self.layout.angle_start + step)
        ids.extend((self.layout.coordinate_start + grid[order]).ravel().tolist())
        ids.append(int(TokenClass.EOS))
        ratio = minimum_distance_ratio(self.decode(ids))
        if ratio < self.settings.min_distance:
            raise TokenizationError(
                f"too close: two sites at {ratio:.3f} of the sum of their covalent radii, the limit is "
                f"{self.settings.min_distance:g}"
            )
        return ids

    def setting(self, structure: Structure) -> Structure:
        """A reduced structure with the axes and the origin that ``encode`` writes."""
        if not self.settings.canonical:
            return structure
        species = np.array([self._species_ids(specie) for specie in structure.species])
        return canonical_setting(
            structure, self._rank[species - self.layout.species_start], self.settings.grid
        )

    def _species_ids(self, specie: Species | Element) -> int:
        token = species_token(specie) if self._oxidation else str(specie.symbol)
        if token not in self._species_id:
            raise TokenizationError(
                f"unknown element: {token} is not among the {len(self._species_id)} species of this tokenizer"
            )
        return self._species_id[token]

    def _step(self, name: str, value: float, unit: str, limits: tuple[float, float]) -> int:
        step = self.settings.length_step if unit == "Å" else self.settings.angle_step
        index = round((value - limits[0]) / step)
        if not 0 <= index <= round((limits[1] - limits[0]) / step):
            raise TokenizationError(
                f"out of range: {name} = {value:.3f} {unit}, the limits are {limits[0]:g}..{limits[1]:g}"
            )
        return index

    def _site_order(self, rank: np.ndarray, grid: np.ndarray, rng: random.Random | None) -> list[int]:
        order = list(range(len(rank)))
        if self.settings.site_order == "random":
            (rng or random.Random(0)).shuffle(order)
            return order
        return sorted(order, key=lambda i: (rank[i], *grid[i].tolist()))

    def decode(self, ids: Sequence[int]) -> Structure:
        """Structure of one completion or whole sequence; padding and the prompt are ignored.

        Raises:
            TokenizationError: The ids are not a complete crystal; says which token is wrong.
        """
        layout = self.layout
        body = [int(i) for i in ids if int(i) not in (TokenClass.PAD, TokenClass.SOS, TokenClass.ATOMS)]
        if TokenClass.LATTICE not in body or body[-1] != TokenClass.EOS:
            raise TokenizationError("no [LATTICE] token, or no [EOS] at the end: the sequence was cut off")
        n_sites = body.index(TokenClass.LATTICE)
        sites, cell, triples = (
            body[:n_sites],
            body[n_sites + 1 : n_sites + 1 + CELL_NUMBERS],
            body[n_sites + 1 + CELL_NUMBERS : -1],
        )
        if not sites or len(cell) != CELL_NUMBERS or len(triples) != 3 * n_sites:
            raise TokenizationError(
                f"{n_sites} species before [LATTICE], {len(cell)} numbers of the cell and {len(triples)} "
                f"coordinates; expected 1 or more, {CELL_NUMBERS} and {3 * n_sites}"
            )
        species = [self._value(i, layout.species_start, layout.n_species, "species") for i in sites]
        coords = [self._value(i, layout.coordinate_start, layout.grid, "coordinate") for i in triples]
        lengths = [self._value(i, layout.length_start, layout.n_lengths, "length") for i in cell[:3]]
        angles = [self._value(i, layout.angle_start, layout.n_angles, "angle") for i in cell[3:6]]
        return Structure(
            Lattice.from_parameters(
                *(round(layout.length_min + layout.length_step * k, 6) for k in lengths),
                *(round(layout.angle_min + layout.angle_step * k, 6) for k in angles),
            ),
            [self._specie(self.settings.species[i]) for i in species],
            np.array(coords).reshape(n_sites, 3) / layout.grid,
        )

    @staticmethod
    def _value(token: int, start: int, size: int, name: str) -> int:
        if not start <= token < start + size:
            raise TokenizationError(f"token {token} stands where a {name} token was expected")
        return token - start

    @staticmethod
    def _specie(token: str) -> Species | Element:
        symbol, _, oxidation = token.partition("|")
        return Species(symbol, float(oxidation)) if oxidation else Element(symbol)

    def token_names(self) -> list[str]:
        """Text of every token id, in order."""
        layout = self.layout
        return [
            *SPECIAL_TOKENS,
            *self.settings.species,
            *(f"x{k}" for k in range(layout.grid)),
            *(f"l{layout.length_min + k * layout.length_step:.4g}" for k in range(layout.n_lengths)),
            *(f"d{layout.angle_min + k * layout.angle_step:.4g}" for k in range(layout.n_angles)),
        ]


@lru_cache(maxsize=32)
def _species_rank(elements: tuple[Element, ...], site_order: SiteOrder) -> tuple[int, ...]:
    """Place of each species in the site order; equal where the order does not look at the species."""
    keys: dict[SiteOrder, Any] = {
        "electronegativity": lambda e: (_electronegativity(e), e.Z),
        "heavy_first": lambda e: -e.Z,
        "light_first": lambda e: e.Z,
        "xyz": lambda _: 0,
        "random": lambda _: 0,
    }
    values = [keys[site_order](element) for element in elements]
    places = {value: place for place, value in enumerate(sorted(set(values)))}
    return tuple(places[value] for value in values)


def _electronegativity(element: Element) -> float:
    """Pauling electronegativity; above all others for the noble gases that have none.

    pymatgen warns of those once, then remembers: asked here first, it stays silent whenever it sorts a
    formula of this tokenizer's elements later.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No Pauling electronegativity")
        value = float(element.X)
    return 9.0 if math.isnan(value) else value


class CrystalTokenizer(PreTrainedTokenizerFast):
    """Hugging Face face of ``CrystalCodec``: WordLevel over space-separated token names.

    ``save_pretrained`` writes the settings into the tokenizer config, so ``AutoTokenizer`` gives the
    same codec back.

    Args:
        settings: Token settings (or the dict of them that a saved tokenizer holds).
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (name and type set by transformers)

    def __init__(self, settings: TokenizerSettings | dict[str, Any] | None = None, **kwargs: Any) -> None:
        if settings is None:
            raise PolicyError("no crystal tokenizer in this folder: tokenizer_config.json lacks 'settings'")
        if isinstance(settings, dict):
            settings = read_settings(settings)
        self.codec = CrystalCodec(settings)
        vocab = {name: i for i, name in enumerate(self.codec.token_names())}
        backend = Tokenizer(models.WordLevel(vocab, unk_token=SPECIAL_TOKENS[0]))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        for key in ("tokenizer_object", "tokenizer_file", "backend", "vocab"):
            kwargs.pop(key, None)
        kwargs.update(pad_token="[PAD]", bos_token="[SOS]", eos_token="[EOS]")
        super().__init__(tokenizer_object=backend, **kwargs)
        self.init_kwargs["settings"] = settings.model_dump(mode="json")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *inputs: Any, **kwargs: Any
    ) -> CrystalTokenizer:
        """Load the tokenizer of a policy: a bundled name, a folder, a run folder or a hub id.

        Raises:
            PolicyError: It is of another version, or cannot be had from the hub.
            ConfigError: Nothing of that name.
        """
        folder = pretrained_folder(pretrained_model_name_or_path, "tokenizer_config.json", kwargs)
        tokenizer: CrystalTokenizer = super().from_pretrained(folder, *inputs, **kwargs)
        return tokenizer

    @property
    def token_settings(self) -> TokenizerSettings:
        """The token settings."""
        return self.codec.settings


def load_tokenizer(folder: Path) -> CrystalTokenizer:
    """Read the tokenizer of a policy folder.

    Raises:
        PolicyError: The folder has no tokenizer or one of another version.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        raise PolicyError(f"{folder} has no tokenizer_config.json: expected a policy made by this program")
    config = json.loads(path.read_text(encoding="utf-8"))
    return CrystalTokenizer(settings=config.get("settings"))


AutoTokenizer.register("crystal", fast_tokenizer_class=CrystalTokenizer)
