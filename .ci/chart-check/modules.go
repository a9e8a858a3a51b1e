//go:build modules

// Keeps the modules whose CRDs are read in go.mod; nothing of this is compiled.
package main

import (
	_ "istio.io/api/networking/v1"
	_ "sigs.k8s.io/gateway-api-inference-extension/api/v1"
	_ "sigs.k8s.io/gateway-api/apis/v1"
)
