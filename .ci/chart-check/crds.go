package main

import (
	"context"
	"errors"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
