"""For authors of plug-ins: contracts that their classes must keep, and small problems with known answers."""
