//! Desired and observed state in, actions out: the state machines of deployments and replicas
