"The documentation site's pages, made from what is there: notebooks, signatures, commands, the service's description, params.yaml."
