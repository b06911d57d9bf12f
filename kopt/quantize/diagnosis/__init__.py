"""Why a model loses accuracy in integers, and at which layer."""
