// Checks custom resources as the API server would: our CRDs themselves, samples of them that are right and wrong, and
// the objects of other projects that the chart and the examples contain.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	strictyaml "sigs.k8s.io/yaml"
)

// What one version of a custom resource must look like.
type resource struct {
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator
}

var (
	scheme    = runtime.NewScheme()
	resources = map[schema.GroupVersionKind]resource{}
	// Kinds without a CRD at hand, of which there is a Go type.
	typed = map[schema.GroupVersionKind]func() any{
		monitoring.SchemeGroupVersion.WithKind("ServiceMonitor"): func() any { return &monitoring.ServiceMonitor{} },
	}
	failed bool
)

func fail(format string, arguments ...any) {
	failed = true
	fmt.Fprintf(os.Stderr, "  "+format+"\n", arguments...)
}

func main() {
	own := flag.String("own", "", "folder of our CRDs: checked themselves")
	foreign := flag.String("foreign", "", "other CRDs: files and folders, comma separated")
	samples := flag.String("samples", "", "folder with good/ and bad/")
	whole := flag.Bool("whole", false, "the objects are all there is: what one names, another must be")
	configs := flag.String("configs", "", "folder for the EndpointPickerConfigs that ConfigMaps hold")
	flag.Parse()
	install.Install(scheme)

	for _, path := range yamlFiles(*own) {
		loadCRDs(path, true)
	}
	for _, name := range strings.Split(*foreign, ",") {
		for _, path := range yamlFiles(name) {
			loadCRDs(path, false)
		}
	}
	if *samples != "" {
		checkSamples(*samples)
	}
	unchecked := map[string]bool{}
	checked := 0
	var all []unstructured.Unstructured
	for _, argument := range flag.Args() {
		for _, path := range yamlFiles(argument) {
			for _, document := range documents(path) {
				all = append(all, document.object)
				kind := document.object.GroupVersionKind()
				if builtIn(kind.Group) {
					continue
				}
				problems, known := check(document)
				switch {
				case !known:
					unchecked[kind.GroupVersion().String()+" "+kind.Kind] = true
				case len(problems) > 0:
					fail("%s: %s %s: %s", path, kind.Kind, document.object.GetName(), strings.Join(problems, "; "))
				default:
					checked++
				}
			}
		}
	}
	if *whole {
		checkReferences(all)
	}
	if *configs != "" {
		writeConfigs(*configs, all)
	}
	fmt.Printf("  %d custom resources checked\n", checked)
	if len(unchecked) > 0 {
		kinds := make([]string, 0, len(unchecked))
		for kind := range unchecked {
			kinds = append(kinds, kind)
		}
		sort.Strings(kinds)
		fmt.Printf("  NOT CHECKED, no schema at hand: %s\n", strings.Join(kinds, ", "))
	}
	if failed {
		os.Exit(1)
	}
}

// Groups whose kinds kubeconform checks.
func builtIn(group string) bool {
	switch group {
	case "apiextensions.k8s.io", "rbac.authorization.k8s.io", "networking.k8s.io", "coordination.k8s.io":
		return true
	}
	return !strings.Contains(group, ".")
}

func yamlFiles(root string) []string {
	var found []string
	if root == "" {
		return found
	}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Ext(path) == ".yaml" {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		fail("%v", err)
	}
	return found
}

func loadCRDs(path string, ours bool) {
	for _, document := range documents(path) {
		if document.object.GetKind() != "CustomResourceDefinition" {
			continue
		}
		var crd apiextensionsv1.CustomResourceDefinition
		decode := func(data []byte, into any) error { return strictyaml.Unmarshal(data, into) }
		if ours {
			decode = func(data []byte, into any) error { return strictyaml.UnmarshalStrict(data, into) }
		}
		if err := decode(document.text, &crd); err != nil {
			fail("%s: %v", path, err)
			continue
		}
		scheme.Default(&crd)
		var internal apiextensions.CustomResourceDefinition
		if err := scheme.Convert(&crd, &internal, nil); err != nil {
			fail("%s: %v", path, err)
			continue
		}
		if ours {
			internal.Status.StoredVersions = []string{crd.Spec.Versions[0].Name}
			for _, problem := range crdvalidation.ValidateCustomResourceDefinition(context.Background(), &internal) {
				fail("%s: %v", path, problem)
			}
		}
		for _, version := range crd.Spec.Versions {
			if version.Schema == nil {
				continue
			}
			var props apiextensions.JSONSchemaProps
			err := scheme.Convert(version.Schema.OpenAPIV3Schema, &props, nil)
			structural, err2 := structuralschema.NewStructural(&props)
			validator, _, err3 := validation.NewSchemaValidator(&props)
			if err := errors.Join(err, err2, err3); err != nil {
				fail("%s: %s: %v", path, version.Name, err)
				continue
			}
			kind := schema.GroupVersionKind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}
			rules := cel.NewValidator(structural, true, celconfig.PerCallLimit)
			resources[kind] = resource{structural, validator, rules}
		}
	}
}

// One document of a file: as it stands there, and parsed.
type document struct {
	text   []byte
	object unstructured.Unstructured
}

func documents(path string) []document {
	text, err := os.ReadFile(path)
	if err != nil {
		fail("%v", err)
		return nil
	}
	var found []document
	split := bytes.Split(append([]byte("\n"), text...), []byte("\n---"))
	for _, part := range split {
		var object map[string]any
		text, err := strictyaml.YAMLToJSONStrict(part)
		if err == nil {
			// Whole numbers become int64, as in the API server.
			err = json.Unmarshal(text, &object)
		}
		if err != nil {
			fail("%s: %v", path, err)
			continue
		}
		if object["kind"] == nil {
			continue
		}
		found = append(found, document{part, unstructured.Unstructured{Object: object}})
	}
	return found
}

// What is wrong with an object, and whether there is a schema for it.
func check(d document) ([]string, bool) {
	kind := d.object.GroupVersionKind()
	if empty, ok := typed[kind]; ok {
		if err := strictyaml.UnmarshalStrict(d.text, empty()); err != nil {
			return []string{err.Error()}, true
		}
		return nil, true
	}
	expected, ok := resources[kind]
	if !ok {
		return nil, false
	}
	object := d.object.Object
	var problems []string
	unknown := pruning.PruneWithOptions(object, expected.structural, true,
		structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, path := range unknown {
		problems = append(problems, path+": unknown field")
	}
	defaulting.Default(object, expected.structural)
	list := validation.ValidateCustomResource(nil, object, expected.validator)
	list = append(list, listtype.ValidateListSetsAndMaps(nil, expected.structural, object)...)
	if expected.rules != nil {
		found, _ := expected.rules.Validate(context.Background(), field.NewPath(""), expected.structural, object, nil,
			celconfig.RuntimeCELCostBudget)
		list = append(list, found...)
	}
	for _, problem := range list {
		problems = append(problems, problem.Error())
	}
	return problems, true
}

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

func writeConfigs(folder string, all []unstructured.Unstructured) {
	for _, object := range all {
		if object.GetKind() != "ConfigMap" {
			continue
		}
		data, _, _ := unstructured.NestedStringMap(object.Object, "data")
		for name, text := range data {
			if strings.Contains(text, "kind: EndpointPickerConfig") {
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
