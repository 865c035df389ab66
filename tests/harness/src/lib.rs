//! Real peers for the tests: the exporter as a process, hosts in network namespaces, servers.
