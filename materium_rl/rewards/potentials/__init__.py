"""Interatomic potentials behind one interface: energies, forces and stress of many structures."""
