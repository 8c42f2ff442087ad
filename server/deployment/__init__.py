"""The coordinator's server: its folder, certificates, members, processes and studies."""
