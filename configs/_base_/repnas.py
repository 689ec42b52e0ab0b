# What every search adds to a stock config, whatever the model and the data.
custom_imports = dict(imports=['repnas_mm'], allow_failed_imports=False)

# dropped branches have no gradients
find_unused_parameters = True
