"The model behind HTTP: stateless, one bundle, floors 0 to 3 of the library."
