import warnings

with warnings.catch_warnings():
    # linear_operator scripts a function when it is imported, which torch deprecates; pytest makes that an error
    warnings.filterwarnings("ignore", message="`torch.jit.script", category=DeprecationWarning)
    import botorch  # noqa: F401
