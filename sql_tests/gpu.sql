--
-- Settings and functions for GPUs.  Whether this machine has one, and a plug-in
-- for it, differs, so nothing here may show it.
--
-- Rows or a notice with the reason
SET client_min_messages = warning;
SELECT coalesce(bool_and(device >= 0 AND name <> '' AND memory_bytes > 0
	AND compute_capability ~ '^\d+\.\d$' AND driver_cuda_version ~ '^\d+\.\d$'), true) AS is_sound FROM vqpg_gpus();
RESET client_min_messages;

-- Settings
SHOW ivfpq.gpu;
SHOW ivfpq.gpu_device;
SELECT name, vartype, context, min_val, max_val, enumvals, boot_val FROM pg_settings
WHERE name LIKE 'ivfpq.gpu%' ORDER BY name COLLATE "C";
SET ivfpq.gpu = true;
SHOW ivfpq.gpu;
SET ivfpq.gpu = 0;
SHOW ivfpq.gpu;
SET ivfpq.gpu = maybe;
SET ivfpq.gpu_device = -2;
SET ivfpq.gpu_device = 3;
RESET ivfpq.gpu_device;

-- Without one, and where a table is too small for one
CREATE TABLE items AS
SELECT i AS id, ARRAY[sin(i), cos(i * 1.7), sin(i * 0.3), i % 7]::real[] AS embedding FROM generate_series(1, 3000) i;
SET ivfpq.gpu = off;
CREATE INDEX without ON items USING ivfpq (embedding);
SET ivfpq.gpu = auto;
CREATE INDEX too_small ON items USING ivfpq (embedding);
SELECT trained_on FROM ivfpq_index_info('without') UNION ALL SELECT trained_on FROM ivfpq_index_info('too_small');
SELECT ivfpq_check('without', true, true), ivfpq_check('too_small', true, true);

-- An index without codes is not trained, on whatever
SET ivfpq.gpu = on;
CREATE TABLE few AS SELECT * FROM items WHERE id <= 10;
CREATE INDEX few_index ON few USING ivfpq (embedding);
SELECT trained_on FROM ivfpq_index_info('few_index');
RESET ivfpq.gpu;
DROP TABLE items, few;
