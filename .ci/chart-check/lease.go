package main

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	strictyaml "sigs.k8s.io/yaml"
)

// With leader election a picker may use one Lease, by name: it must be the one that it asks for with the arguments it is given.
// Without, it may use none.
func checkLease(path string, objects []unstructured.Unstructured) {
	wanted, picker := lease(path, objects)
	if !picker {
		return
	}
	for _, object := range objects {
		if object.GetKind() != "Role" {
			continue
		}
		rules, _, _ := unstructured.NestedSlice(object.Object, "rules")
		for _, rule := range rules {
			rule := rule.(map[string]any)
			resources, _, _ := unstructured.NestedStringSlice(rule, "resources")
			verbs, _, _ := unstructured.NestedStringSlice(rule, "verbs")
			if !slices.Contains(resources, "leases") || !slices.Contains(verbs, "update") {
				continue
			}
			names, _, _ := unstructured.NestedStringSlice(rule, "resourceNames")
			if !slices.Equal(names, []string{wanted}) {
				fail("%s: Role %s allows the leases %q; the picker's is %q", path, object.GetName(), names, wanted)
			}
			return
		}
	}
	if wanted != "" {
		fail("%s: no Role allows the picker's lease, %s", path, wanted)
	}
}

// The Lease that the picker among the objects asks for, if it takes part in an election; and whether there is a picker.
func lease(path string, objects []unstructured.Unstructured) (string, bool) {
	for _, object := range objects {
		if object.GetKind() != "Deployment" {
			continue
		}
		containers, _, _ := unstructured.NestedSlice(object.Object, "spec", "template", "spec", "containers")
		for _, container := range containers {
			args, _, _ := unstructured.NestedStringSlice(container.(map[string]any), "args")
			if len(args) == 0 || args[0] != "serve" {
				continue
			}
			if !slices.Contains(args, "--ha-enable-leader-election=true") {
				return "", true
			}
			// Pods without a pool are a pool that is called as their picker's Deployment.
			namespace, name := object.GetNamespace(), object.GetName()
			for _, arg := range args {
				if pool, ok := strings.CutPrefix(arg, "--pool-name="); ok {
					name = pool
				}
				if arg == "--pools-file=/config/pools.yaml" {
					namespace, name = firstPool(path, objects)
				}
			}
			return fmt.Sprintf("epp-%s-%s.llm-d.ai", namespace, name), true
		}
	}
	return "", false
}

// Namespace and name of the first pool that is listed.
func firstPool(path string, objects []unstructured.Unstructured) (string, string) {
	for _, object := range objects {
		text, found, _ := unstructured.NestedString(object.Object, "data", "pools.yaml")
		var list struct {
			Pools []struct{ Namespace, Name string }
		}
		if found && strictyaml.Unmarshal([]byte(text), &list) == nil && len(list.Pools) > 0 {
			return list.Pools[0].Namespace, list.Pools[0].Name
		}
	}
	fail("%s: no ConfigMap lists pools", path)
	return "", ""
}
