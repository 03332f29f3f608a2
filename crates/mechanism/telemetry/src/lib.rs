//! Metric names, histograms and logs
