# What every search adds to a stock config, whatever the model and the data.
custom_imports = dict(imports=['repnas_mm'], allow_failed_imports=False)

# dropped branches have no gradients
find_unused_parameters = True

# For the end of a config's custom_hooks, as *_base_.run_hooks: a search is a long run.
run_hooks = [
    # a resumed run ends bit for bit where one ends that was never stopped
    dict(type='ExactResumeHook'),
    # a run whose numbers become NaN or Inf stops before it saves them, and says where that began
    dict(type='CheckFiniteHook'),
]
