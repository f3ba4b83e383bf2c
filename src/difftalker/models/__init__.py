"""The networks: completion of landmarks, autoencoder, prior and landmark branch."""
