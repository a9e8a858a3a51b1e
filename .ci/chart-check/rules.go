package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Route → gateway and pool, pool → picker.
func checkReferences(all []unstructured.Unstructured) {
	present := map[string]bool{}
	for _, object := range all {
		present[object.GetKind()+"/"+object.GetName()] = true
	}
	need := func(from unstructured.Unstructured, kind string, name any) {
		if !present[fmt.Sprintf("%s/%v", kind, name)] {
			fail("%s %s names %s %v, which is not there", from.GetKind(), from.GetName(), kind, name)
		}
	}
	for _, object := range all {
		switch object.GetKind() {
		case "HTTPRoute":
			parents, _, _ := unstructured.NestedSlice(object.Object, "spec", "parentRefs")
			for _, parent := range parents {
				need(object, "Gateway", parent.(map[string]any)["name"])
			}
			rules, _, _ := unstructured.NestedSlice(object.Object, "spec", "rules")
			for _, rule := range rules {
				backends, _, _ := unstructured.NestedSlice(rule.(map[string]any), "backendRefs")
				for _, backend := range backends {
					need(object, fmt.Sprint(backend.(map[string]any)["kind"]), backend.(map[string]any)["name"])
				}
			}
		case "InferencePool":
			picker, _, _ := unstructured.NestedString(object.Object, "spec", "endpointPickerRef", "name")
			need(object, "Service", picker)
		}
	}
}

// What the node agent may do and see is written twice, for those with the chart and those without.
func checkProbe(path string, all []unstructured.Unstructured) {
	given := func(object unstructured.Unstructured) map[string]any {
		pod, _, _ := unstructured.NestedMap(object.Object, "spec", "template", "spec")
		containers, _, _ := unstructured.NestedSlice(pod, "containers")
		if len(containers) != 1 {
			return nil
		}
		container := containers[0].(map[string]any)
		for _, chosen := range []string{"image", "imagePullPolicy", "args", "resources"} {
			delete(container, chosen)
		}
		for _, chosen := range []string{"containers", "imagePullSecrets", "nodeSelector", "tolerations", "runtimeClassName"} {
			delete(pod, chosen)
		}
		// deploy/probe/resource-slices.yaml says how it is given the same.
		if pod["serviceAccountName"] != nil {
			delete(pod, "serviceAccountName")
			pod["automountServiceAccountToken"] = false
		}
		return map[string]any{"pod": pod, "container": container}
	}
	for _, standalone := range documents(path) {
		for _, object := range all {
			if object.GetKind() != "DaemonSet" || standalone.object.GetKind() != "DaemonSet" {
				continue
			}
			if a, b := given(standalone.object), given(object); !reflect.DeepEqual(a, b) {
				fail("%s and the chart's DaemonSet differ:\n    %v\n    %v", path, a, b)
			}
		}
	}
}

func writeConfigs(folder string, all []unstructured.Unstructured) {
	for _, object := range all {
		if object.GetKind() != "ConfigMap" {
			continue
		}
		data, _, _ := unstructured.NestedStringMap(object.Object, "data")
		for name, text := range data {
			// What lists pools names the files beside it.
			if strings.Contains(text, "kind: EndpointPickerConfig") || name == "pools.yaml" {
				text = strings.ReplaceAll(text, "/config/", folder+"/")
				if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
					fail("%v", err)
				}
			}
		}
	}
}

// good/: nothing may be wrong, and `# default: path = value` lines must hold. bad/: each `# error: text` must be said.
func checkSamples(folder string) {
	count := 0
	for _, path := range yamlFiles(filepath.Join(folder, "good")) {
		for _, document := range documents(path) {
			count++
			problems, known := check(document)
			if !known {
				fail("%s: no CRD for it", path)
			}
			for _, problem := range problems {
				fail("%s: %s", path, problem)
			}
			for _, expected := range comments(document.text, "# default: ") {
				name, want, _ := strings.Cut(expected, " = ")
				got, _, err := unstructured.NestedFieldNoCopy(document.object.Object, strings.Split(name, ".")...)
				if err != nil || fmt.Sprint(got) != want {
					fail("%s: %s is %v, not %s", path, name, got, want)
				}
			}
		}
	}
	for _, path := range yamlFiles(filepath.Join(folder, "bad")) {
		for _, document := range documents(path) {
			count++
			expected := comments(document.text, "# error: ")
			problems, _ := check(document)
			if len(expected) == 0 {
				fail("%s: a document does not say what is wrong with it", path)
			}
			for _, text := range expected {
				if !strings.Contains(strings.Join(problems, "\n"), text) {
					fail("%s: %s: `%s` is not among what is wrong: %q", path, document.object.GetName(), text, problems)
				}
			}
		}
	}
	fmt.Printf("  %d samples checked\n", count)
}

func comments(text []byte, prefix string) []string {
	var found []string
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			found = append(found, rest)
		}
	}
	return found
}
