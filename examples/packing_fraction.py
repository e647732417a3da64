"""A program as a reward: reads structures from stdin, writes packing fractions to stdout, one JSON a line.

    materium-rl rewards check 'external(command="python examples/packing_fraction.py")'

It needs nothing but the standard library: the protocol is lines of JSON, in any language.
"""

import json
import math
import sys

RADII = {  # Å; Slater, J. Chem. Phys. 41, 3199 (1964)
    "H": 0.25, "Li": 1.45, "C": 0.70, "N": 0.65, "O": 0.60, "F": 0.50, "Na": 1.80, "Mg": 1.50, "Al": 1.25,
    "Si": 1.10, "P": 1.00, "S": 1.00, "Cl": 1.00, "K": 2.20, "Ca": 1.80, "Ti": 1.40, "V": 1.35, "Cr": 1.40,
    "Mn": 1.40, "Fe": 1.40, "Co": 1.35, "Ni": 1.35, "Cu": 1.35, "Zn": 1.35, "Ga": 1.30, "As": 1.15,
    "Sr": 2.00,
}  # fmt: skip


def answer(structure: dict) -> dict:
    """The part of an answer that follows the id."""
    elements = [species["element"] for site in structure["sites"] for species in site["species"]]
    unknown = sorted(set(elements) - RADII.keys())
    if unknown:
        return {"error": f"no radius for {', '.join(unknown)}"}
    filled = sum(4 / 3 * math.pi * RADII[element] ** 3 for element in elements)
    fraction = filled / structure["lattice"]["volume"]
    if not 0.05 < fraction < 1.5:  # Slater's radii overlap in real crystals: above 1 is possible
        return {"invalid": f"packing fraction {fraction:.3g}; limits 0.05 to 1.5"}
    return {"value": fraction}


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"id": request["id"], **answer(request["structure"])}), flush=True)
