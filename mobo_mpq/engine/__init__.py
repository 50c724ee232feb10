"""The engine of `mobo`: what is learned of policies, what another one would be worth, how the best is found."""
