//! How many replicas a deployment should have
